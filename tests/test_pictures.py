"""What pictures show: labels that have room, legends that say what is drawn, axes that name what is on them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from test_study import write_run

from mfrun.runs.directory import RunDirectory
from mfrun.shell import options
from mfrun.study import compare, plot, predicted, style
from mfrun.study.convergence import study
from mfrun.study.curves import load
from mfrun.study.prediction import Growth, Law, Prediction


def plotted(folder: Path, *words: str) -> Figure:
    """The picture of ``mfrun plot``, drawn to the end."""
    figure, _ = plot.draw(options.plot().parse_args([str(folder), *words]))
    figure.draw_without_rendering()
    return figure


def compared(folder: Path, *words: str) -> Figure:
    """The picture of ``mfrun compare``, drawn to the end."""
    figure = compare.figure(compare.measure(options.compare().parse_args([str(folder), *words])).studies)
    figure.draw_without_rendering()
    return figure


def legend(figure: Figure) -> list[str]:
    """What the legend beside the panels says."""
    return [text.get_text() for text in figure.legends[0].get_texts()]


def rows(figure: Figure) -> list[tuple[Axes, Text]]:
    """The first panel of each row, and what the row is called."""
    return [(ax, ax.yaxis.label) for ax in figure.axes if ax.get_ylabel()]


def refuse_overlaps(boxes: list[Bbox]) -> None:
    assert boxes
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


# -- rows of panels ---------------------------------------------------------------------------------------------------


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Sweeps that differ in three keys, the one of small widths found last."""
    for name, tau2, depth, samples, ns in (("a", 0.1, 5, 500, (25, 50, 100)), ("b", 0.1, 4, 10000, (10, 20))):
        for n in (*ns, math.inf):
            bar = 1e-3 if math.isinf(n) else None
            keys = {"init": {"tau2": tau2}, "depth": depth, "evaluation": {"samples": samples}}
            write_run(tmp_path / name / str(n), n, 3 / n, bar=bar, **keys)
    return tmp_path


def test_labels_of_rows_are_as_long_as_their_panels(several: Path) -> None:
    """Lines are broken at commas, and nothing is left out."""
    found = rows(compared(several))
    assert [label.get_text().replace("\n", " ") for _, label in found] == [
        *["depth=5, evaluation.samples=500"] * 2,
        *["depth=4, evaluation.samples=10000"] * 2,
    ]
    for ax, label in found:
        panel, box = ax.get_window_extent(), label.get_window_extent()
        assert panel.y0 <= box.y0 < box.y1 <= panel.y1
        assert 0 <= box.x0 < box.x1 < panel.x0
    refuse_overlaps([label.get_window_extent() for _, label in found])


def test_a_part_of_a_label_that_is_too_long_gets_smaller(tmp_path: Path) -> None:
    for law in ("normal", f"package.of_mine.{'with_a_long_name_' * 3}:Law"):
        for n in (50, 100):
            write_run(tmp_path / law / str(n), n, 3 / n, init={"name": "iid", "law": law})
    for figure in (compared(tmp_path), plotted(tmp_path, "--facet", "law")):
        found = rows(figure)
        for ax, label in found:
            assert label.get_window_extent().height <= ax.get_window_extent().height
        assert found[-1][1].get_fontsize() < found[0][1].get_fontsize()


def test_the_legend_of_a_comparison_goes_by_width(several: Path) -> None:
    """Whatever the order in which the sweeps are found; the limit's bar is no width and comes last."""
    for n in (25, 50):
        write_run(
            several / f"{n} by 16", n, 3 / n, init={"tau2": 0.1}, depth=5, evaluation={"samples": 500}, neurons=16
        )
    assert legend(compared(several)) == [
        *(style.named(n) for n in (10, 20, 25)),
        style.named(25, 16),
        style.named(50),
        style.named(50, 16),
        style.named(100),
        "limit's bar",
    ]


# -- settings as they are typed ---------------------------------------------------------------------------------------


def chosen(folder: Path, width: int, option: str | None, **init: object) -> None:
    """A run that was started with this option of the group init, as Hydra records it; None for none on record."""
    write_run(folder, width, 3 / width, init=init)
    if option is not None:
        (folder / ".hydra").mkdir()
        (folder / ".hydra" / "hydra.yaml").write_text(f"hydra: {{runtime: {{choices: {{init: {option}}}}}}}\n")


def test_a_component_is_called_as_it_is_chosen(tmp_path: Path) -> None:
    """Two options of one component are two rows; each can be typed, as the component's own name cannot."""
    for n in (50, 100):
        chosen(tmp_path / f"a{n}", n, "embedding", name="embedding", law="normal")
        chosen(tmp_path / f"b{n}", n, "normal", name="iid", law="normal")
        chosen(tmp_path / f"c{n}", n, "uniform", name="iid", law="uniform")
    for key in ("init", "init.name"):
        called = [label.get_text() for _, label in rows(plotted(tmp_path, "--facet", key))]
        assert called == ["init=embedding", "init=normal", "init=uniform"]
    told = legend(plotted(tmp_path))
    assert "init=normal, law=normal" in told
    assert not any("iid" in words for words in told)


@pytest.mark.parametrize("other", [None, "rademacher"])
def test_a_component_keeps_its_name_where_options_do_not_tell(tmp_path: Path, other: str | None) -> None:
    """One setting that was asked for in two ways, or in one that is not on record, stays one setting."""
    chosen(tmp_path / "a", 50, "embedding", name="embedding", law="normal")
    chosen(tmp_path / "b", 50, "normal", name="iid", law="normal")
    chosen(tmp_path / "c", 100, other, name="iid", law="normal")
    curves, _ = load([str(tmp_path)], latest=False)
    assert [(c.width, c.setting) for c in curves] == [
        (50, {"init.name": "embedding"}),
        (50, {"init.name": "iid"}),
        (100, {"init.name": "iid"}),
    ]


# -- stand-ins --------------------------------------------------------------------------------------------------------


def dashes(line: Line2D) -> list[float] | None:
    """The pattern of a line, in its widths; None for a solid one."""
    pattern = line._dash_pattern[1]  # type: ignore[attr-defined]
    return None if pattern is None else [round(length / line.get_linewidth(), 3) for length in pattern]


def look(line: Line2D) -> tuple[object, ...]:
    return line.get_color(), line.get_linewidth(), dashes(line)


def stood(folder: Path, n: int, neurons: int, first: int | None) -> None:
    write_run(folder / f"{n},{neurons},{first}", n, 1 / n, neurons=neurons, stand_in={"first": first})


def test_the_legend_says_how_many_neurons_layers_of_stand_ins_have(tmp_path: Path) -> None:
    """In words, and a width that is stood for alone is explained by a line that it has."""
    write_run(tmp_path / "50", 50, 0.1)
    write_run(tmp_path / "100", 100, 0.1)
    for n, neurons, first in ((100, 256, None), (10**12, 256, None), (10**12, 256, 1024), (200, 256, 1024)):
        stood(tmp_path, n, neurons, first)
    figure = plotted(tmp_path, "--metrics", "population_loss")
    swatches = {str(line.get_label()): line for line in figure.legends[0].legend_handles}
    *of_widths, of_null, of_1024 = swatches
    assert (of_null, of_1024) == ("layer 1: 256 neurons", "layer 1: 1024 neurons")
    drawn = [look(line) for line in figure.axes[0].lines]
    assert all(look(swatches[words]) in drawn for words in of_widths)
    assert [dashes(swatches[style.named(n)]) for n in (50, 100)] == [None] * 2
    assert dashes(swatches[style.named(10**12, 256)]) == dashes(swatches[of_null])
    assert dashes(swatches[style.named(200, 256)]) == dashes(swatches[of_1024])


def test_where_stand_ins_have_several_sizes_a_layer_has_N_neurons(tmp_path: Path) -> None:
    for neurons in (16, 64):
        stood(tmp_path, 1000, neurons, None)
        stood(tmp_path, 1000, neurons, 256)
    told = legend(plotted(tmp_path, "--style", "stand_in.first"))
    assert set(told[-2:]) == {"layer 1: $N$ neurons", "layer 1: 256 neurons"}


def test_settings_that_words_do_not_tell_apart_stay_as_they_are_typed(tmp_path: Path) -> None:
    """N neurons by default, and N neurons that were asked for."""
    for first in (None, 16):
        stood(tmp_path, 1000, 16, first)
    assert set(legend(plotted(tmp_path))[-2:]) == {"stand_in.first=null", "stand_in.first=16"}


# -- ticks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("widths", "named"),
    [
        ([100, 200, 1600, 1e4, 1e6, 1e8, 1e10, 1e12], ["10^{2}", "10^{4}", "10^{6}", "10^{8}", "10^{10}", "10^{12}"]),
        ([50, 200, 3000, 60000], ["10^{2}", "10^{3}", "10^{4}"]),
        ([100, 110, 200, 400, 800], ["100", "", "200", "400", "800"]),
        ([64], ["64"]),
    ],
)
def test_ticks_of_widths(widths: list[float], named: list[str]) -> None:
    """The first one is named as the last is; on a long axis, powers of ten."""
    figure, ((axes,),) = style.panels(1, 1)
    axes.plot(widths, widths)
    style.log_ticks(axes, widths)
    figure.draw_without_rendering()
    assert [label.get_text().strip("$") for label in axes.get_xticklabels()] == named
    low, high = axes.get_xlim()
    assert all(low <= tick <= high for tick in axes.get_xticks())
    assert not axes.xaxis.get_minor_ticks()


def test_widths_on_a_long_axis_of_a_comparison(tmp_path: Path) -> None:
    for n in (100, 200, 10**6, 10**8):
        write_run(tmp_path / str(n), n, 3 / n)
    write_run(tmp_path / "inf", math.inf, 0.0, bar=1e-9)
    _, against_n, horizons = compared(tmp_path, "--metrics", "population_loss").axes
    for ax in (against_n, horizons):
        labels = [label.get_text() for label in ax.get_xticklabels()]
        assert labels == [f"$10^{{{e}}}$" for e in range(2, 9)]
        refuse_overlaps([label.get_window_extent() for label in ax.get_xticklabels()])


# -- horizons ---------------------------------------------------------------------------------------------------------


def test_the_page_of_horizons_shows_what_it_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line to its end, the widths that never leave, and the shifted curves in the range that they have there."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "scripts")
    import horizon_page

    for n, leaves in ((100, 30.0), (1e4, 60.0), (1e6, 60.0), (1e8, 95.0), (1e12, math.inf), (math.inf, math.inf)):
        run = RunDirectory(tmp_path / f"{n:g}")
        run.create({"width": "inf" if math.isinf(n) else int(n), "dataset": {"name": "mnist"}})
        values = [(t, 0.5 + 2 * math.exp(-t / 20) - min(0.4, max(0.0, t - leaves) / 50)) for t in range(101)]
        row = {"replicate": 0, "wall_seconds": 0.0}
        run.append([{"step": t, "t": float(t), "test_loss": v, **row} for t, v in values])
        run.write_status("finished", step=100, steps=100)
    curves, _ = load([str(tmp_path)], latest=False)
    found = study(curves, "test_loss", 0.1, absolute=True)
    figure, ((middle, right),) = style.panels(1, 2)
    horizon_page.horizons(middle, found, 100)
    horizon_page.shifted(right, curves, "test_loss", found, style.colours([c.width for c in curves]))
    figure.draw_without_rendering()
    assert max(line.get_ydata().max() for line in middle.lines) < middle.get_ylim()[1] < 120
    assert [label.get_text() for label in middle.get_xticklabels()] == [f"$10^{{{e}}}$" for e in range(2, 13, 2)]
    start, end = right.get_xlim()
    seen = [y for line in right.lines for t, y in zip(*line.get_data(), strict=True) if start <= t <= end]
    low, high = right.get_ylim()
    assert low < min(seen) < max(seen) < high
    assert high - low < 1.4 * (max(seen) - min(seen))


# -- predictions ------------------------------------------------------------------------------------------------------


def law(metric: str, limit: float) -> Law:
    """One with a band that is wider than the limit is above 0."""
    zeros = dict.fromkeys(("limit_bar", "c", "c_se", "common", "common_se", "s_se", "q", "q_se"), 0.0)
    frame = pd.DataFrame(
        {"t": [0.0, 1.0, 10.0], "limit": [limit, limit, limit / 2], "s": 1.0, **zeros}, index=[0, 1, 10]
    )
    return Law(metric, frame.assign(linear=True), 0.1)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("grown", [False, True])
def test_every_metric_of_several_has_a_row(count: int, grown: bool) -> None:
    laws = [law(metric, 0.2) for metric in ("population_loss", "population_error", "test_error")[:count]]
    layers = pd.DataFrame({2: [0.1, 0.2]}, index=[0.0, 1.0])
    found = Prediction(laws, layers, {2: Growth()} if grown else {}, 2, 4, {})
    figure = predicted.figure(found, laws, [10.0])
    figure.draw_without_rendering()
    of_metrics = [ax for ax in figure.axes if ax.has_data()][: 4 * count]
    rows = [ax.get_subplotspec().rowspan.start for ax in of_metrics]
    assert count == 1 or rows == [row for row in range(count) for _ in range(4)]
    assert sum(ax.has_data() for ax in figure.axes) == 4 * count + grown


def test_bands_of_errors_are_those_of_the_table() -> None:
    """Between 0 and 1, less the limit where that is what a panel shows; losses may be anything."""
    for metric, lowest in (("population_error", 0.0), ("population_loss", 0.2 / 2 - 1.96 / math.sqrt(10))):
        one = law(metric, 0.2)
        figure = predicted.figure(Prediction([one], pd.DataFrame(), {}, 2, 4, {}), [one], [10.0])
        curves, gaps = figure.axes[:2]
        (band,), (less) = curves.collections, gaps.collections[0]
        assert band.get_paths()[0].vertices[:, 1].min() == pytest.approx(lowest)
        assert less.get_paths()[0].vertices[:, 1].min() == pytest.approx(
            -0.2 if metric.endswith("_error") else -1.96 / math.sqrt(10)
        )
        assert np.isfinite(band.get_paths()[0].vertices).all()
