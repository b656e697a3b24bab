"""Curves with a known answer through plot, compare and status: the runs are written as the runner writes them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from mfrun import cli
from mfrun.dynamics.evaluate import grid
from mfrun.runs.directory import RunDirectory
from mfrun.shell import options
from mfrun.study import bootstrap, compare, plot, report, style
from mfrun.study.convergence import study
from mfrun.study.curves import describe, load

STEPS = 1000
ALPHA = 0.01


def limit_curve(k: int) -> float:
    """What the synthetic limit's loss is."""
    return math.exp(-k / 300)


def write_run(
    folder: Path,
    width: float,
    gap: float,
    *,
    replicates: int = 1,
    noise: float = 0.0,
    bar: float | None = None,
    **keys: object,
) -> None:
    """A finished run whose loss is the limit's plus ``gap`` (and noise that differs between replicates)."""
    run = RunDirectory(folder)
    label = "inf" if math.isinf(width) else int(width)
    run.create({"width": label, "dataset": {"name": "gaussians"}, "seed": {"init": 0}, "init": {"tau2": 0.1}, **keys})
    rng = np.random.default_rng(int(0 if math.isinf(width) else width))
    shifts = noise * rng.standard_normal(replicates)
    for k in grid(STEPS, 10):
        rows = []
        for r in range(replicates):
            row = {"step": k, "t": k * ALPHA, "replicate": r, "population_loss": limit_curve(k) + gap + shifts[r]}
            row["population_error"] = 0.5 * limit_curve(k) + gap
            if bar is not None:
                row |= {"population_loss_bar": bar, "population_error_bar": bar}
            rows.append({**row, "wall_seconds": 0.1 * k})
        run.append(rows)
    run.write_status("finished", step=STEPS, steps=STEPS, population_loss=0.1)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Widths 50 .. 400 whose gap is exactly 3/n, and the limit."""
    for n in (50, 100, 200, 400):
        write_run(tmp_path / f"width={n}", n, 3 / n, replicates=2)
    write_run(tmp_path / "width=inf", math.inf, 0.0, bar=1e-4)
    return tmp_path


def test_rate_of_an_exact_power_law(sweep: Path) -> None:
    """gap = 3/n has rate 1 and C = 3."""
    curves, _ = load([str(sweep)], latest=False)
    s = study(curves, "population_loss", 0.01, absolute=True)
    assert s.reference == "inf"
    for f in (s.fit_mean, s.fit_one):
        assert f.rate == pytest.approx(1.0, abs=1e-6)
        assert pytest.approx(3.0, rel=1e-6) == f.C
    assert [g.horizon(0.0301) for g in s.gaps] == [(1, ALPHA), None, None, None]


def test_rate_interval_covers_the_truth_under_noise(tmp_path: Path) -> None:
    """Chance of size n^-1/2 around a mean gap of 3/n: one network's gap has rate 1/2, well above the mean's noise."""
    for n in (50, 200, 800, 3200):
        write_run(tmp_path / f"width={n}", n, 0.0, replicates=40, noise=n**-0.5)
    write_run(tmp_path / "width=inf", math.inf, 0.0, bar=1e-6)
    curves, _ = load([str(tmp_path)], latest=False)
    s = study(curves, "population_loss", 0.05, absolute=False)
    assert s.fit_one.source == "replicates"
    assert s.fit_one.low < 0.5 < s.fit_one.high
    assert s.fit_one.high - s.fit_one.low < 0.3
    # Chance alone: the mean's gap is not above its noise (a 95 % statement for each width).
    assert sum(g.mean_flagged() for g in s.gaps) >= 3


@pytest.mark.parametrize("replicates", [4, 8])
def test_intervals_of_slopes_hold_the_truth(replicates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """95 % of them do, of few replicates as well; the quantiles of the bootstrap held 84 % with four."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 200)
    rng, x = np.random.default_rng(replicates), np.log([100.0, 200, 400, 800])
    held, trials = 0, 250

    def gap(values: np.ndarray) -> float:
        return 0.5 * math.log(float((values**2).mean()))

    for _ in range(trials):
        # Three modes of chance of unlike size, as a curve has.
        sizes = np.array([[1.0], [0.5], [0.3]]) * np.exp(-x / 2)[:, None, None]
        every = list(sizes * rng.standard_normal((4, 3, replicates)))
        slope = np.polyfit(x, [gap(d) for d in every], 1)[0]
        held += abs(slope + 0.5) < bootstrap.half_width(x, every, [gap] * 4)
    # Four standard errors of 95 % in so many trials.
    assert held / trials > 0.95 - 4 * math.sqrt(0.95 * 0.05 / trials)


def test_without_chance_an_interval_has_no_width() -> None:
    x = np.log([1.0, 2, 4])
    assert bootstrap.half_width(x, [np.ones((2, 4))] * 3, [np.mean] * 3) == 0


def test_gap_below_the_limits_own_error_is_flagged(tmp_path: Path) -> None:
    """A gap of 1e-3 means nothing beside an error bar of 1e-2."""
    write_run(tmp_path / "a", 100, 1e-1, replicates=2)
    write_run(tmp_path / "b", 400, 1e-3, replicates=2)
    write_run(tmp_path / "c", math.inf, 0.0, bar=1e-2)
    curves, _ = load([str(tmp_path)], latest=False)
    assert [g.mean_flagged() for g in study(curves, "population_loss", 0.05, False).gaps] == [False, True]


def test_compare_writes_table_csv_and_figure(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rate, the horizon and ``never`` are there to be read."""
    assert cli.run(["compare", str(sweep), "--tolerance", "0.02", "--absolute", "--steps", "10,1000"]) == 0
    out = capsys.readouterr().out
    assert "the limit n = inf" in out
    assert "never" in out
    assert "one network 1.00" in out
    frame = pd.read_csv(sweep / "compare.csv")
    loss = frame[frame["metric"] == "population_loss"].set_index("width")
    assert loss["gap_of_one"].to_dict() == pytest.approx({50: 0.06, 100: 0.03, 200: 0.015, 400: 0.0075}, rel=1e-6)
    assert loss["horizon_t"].to_dict() == {50: "0.01", 100: "0.01", 200: "never", 400: "never"}
    assert loss["gap_of_one_at_1000"][100] == pytest.approx(0.03, rel=1e-6)
    assert (sweep / "compare.png").stat().st_size > 10_000


def test_compare_shows_what_it_cannot_write(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sweep / "file").touch()
    assert cli.run(["compare", str(sweep), "--out", "file/c"]) == 2
    said = capsys.readouterr()
    assert "rate r in gap" in said.out
    assert said.err.splitlines() == ["mfrun: --out file/c: cannot be written (Not a directory)"]


def test_compare_without_the_limit_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The largest width stands in."""
    for n in (50, 100, 800):
        write_run(tmp_path / f"width={n}", n, 3 / n)
    assert cli.run(["compare", str(tmp_path), "--metrics", "population_loss"]) == 0
    assert "n = 800, the largest width here (no inf)" in capsys.readouterr().out


def test_compare_keeps_settings_apart(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another tau2 is another comparison."""
    for n in (50, 100, math.inf):
        write_run(sweep / f"width={n},tau2=3", n, 0.0 if math.isinf(n) else 1 / math.sqrt(n), init={"tau2": 3.0})
    assert cli.run(["compare", str(sweep), "--metrics", "population_loss"]) == 0
    out = capsys.readouterr().out
    assert "[tau2=0.1]" in out
    assert "[tau2=3]" in out
    frame = pd.read_csv(sweep / "compare.csv").groupby("init.tau2")["rate_of_one"].first()
    assert frame.to_dict() == pytest.approx({0.1: 1.0, 3.0: 0.5}, abs=1e-6)


def test_runs_that_repeat_each_other_count_once(sweep: Path) -> None:
    """A shorter copy of a run, and one with a replicate more, bring one new curve, not three."""
    write_run(sweep / "again", 50, 3 / 50)
    write_run(sweep / "more", 50, 3 / 50, replicates=2)
    curves, _ = load([str(sweep)], latest=False)
    assert curves[0].width == 50
    assert curves[0].table("population_loss").shape[1] == 2


def test_replicates_are_held_to_the_limit_on_their_own_data(tmp_path: Path) -> None:
    """Data seeds shift limit and networks alike; only the 3/n is left."""
    for seed, shift in ((0, 0.0), (1, 0.4)):
        data = {"init": 0, "data": seed, "eval": 0}
        for n in (50, 100):
            write_run(tmp_path / f"{n}-{seed}", n, 3 / n + shift, seed=data)
        write_run(tmp_path / f"inf-{seed}", math.inf, shift, bar=1e-6, seed=data)
    curves, _ = load([str(tmp_path)], latest=False)
    s = study(curves, "population_loss", 0.05, absolute=False)
    assert s.fit_one.rate == pytest.approx(1.0, abs=1e-6)
    assert [g.replicates for g in s.gaps] == [2, 2]


def test_bars_of_a_reference_on_data_of_its_own(tmp_path: Path) -> None:
    """Four limits, each on the data of one replicate: their mean has half the bar, each network meets the whole."""
    keys = {"replicates": 4, "replicate_data": "independent"}
    write_run(tmp_path / "100", 100, 0.015, **keys)
    write_run(tmp_path / "inf", math.inf, 0.0, bar=0.02, **keys)
    (gap,) = study(load([str(tmp_path)], latest=False)[0], "population_loss", 0.05, absolute=False).gaps
    assert gap.reference_bar.tolist() == pytest.approx([0.01] * len(gap.t))
    assert gap.reference_bar_of_one.tolist() == pytest.approx([0.02] * len(gap.t))
    assert gap.one_flagged()
    # One network on data that one of them has seen has that one's bar, on others the mean's.
    for data, bar in ((0, 0.02), (7, 0.01)):
        write_run(tmp_path / "one" / str(data), 100, 0.015, seed={"init": 9, "data": data, "eval": 0})
        curves = load([str(tmp_path / "inf"), str(tmp_path / "one" / str(data))], latest=False)[0]
        (gap,) = study(curves, "population_loss", 0.05, absolute=False).gaps
        assert gap.reference_bar_of_one.iloc[0] == pytest.approx(bar)


def test_a_finite_reference_on_data_of_its_own_has_its_chance_in_the_differences(tmp_path: Path) -> None:
    for n, gap in ((100, 0.02), (400, 0.0)):
        write_run(tmp_path / f"{n}", n, gap, replicates=6, noise=0.01, replicate_data="independent")
    (gap,) = study(load([str(tmp_path)], latest=False)[0], "population_loss", 0.05, absolute=False).gaps
    assert (gap.reference_bar == 0).all()
    assert not gap.one_flagged()


def test_limits_of_unlike_length(tmp_path: Path) -> None:
    """Where one of two has ended the other's bar is the bar."""
    write_run(tmp_path / "100", 100, 0.015)
    for seed, last in ((0, 10), (1, STEPS)):
        write_run(tmp_path / f"inf{seed}", math.inf, 0.0, bar=0.02, seed={"init": seed, "data": 0, "eval": 0})
        run = RunDirectory(tmp_path / f"inf{seed}")
        run.keep_rows({k for k in grid(STEPS, 10) if k <= last})
    curves = load([str(tmp_path)], latest=False)[0]
    (gap,) = study(curves, "population_loss", 0.05, absolute=False).gaps
    assert gap.reference_bar.loc[10] == pytest.approx(0.02 / math.sqrt(2))
    assert gap.reference_bar.loc[STEPS] == pytest.approx(0.02)
    assert curves[-1].bar("population_loss").loc[STEPS] == pytest.approx(0.02)


def test_batches_that_the_reference_has_not_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "100", 100, 0.1, replicates=3, replicate_data="independent")
    write_run(tmp_path / "inf", math.inf, 0.0, bar=1e-4)
    assert cli.run(["compare", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "! replicate_data is shared and independent: gaps hold the chance of the batches" in out
    assert "gaps are free of them" not in out


def test_a_width_that_is_real_and_stood_for_counts_once(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The real networks have the rate; stand-ins are rows of their own."""
    for n in (100, 200):
        write_run(sweep / f"width={n},neurons=16", n, 1.0, neurons=16)
    assert cli.run(["compare", str(sweep), "--metrics", "population_loss"]) == 0
    out = capsys.readouterr().out
    assert "one network 1.00" in out
    assert "rate and horizon take each n once, real or by the most neurons" in out
    assert "100 by 16" in out


def test_steps_are_a_setting_where_the_schedule_stretches(tmp_path: Path) -> None:
    """Half a cosine over 10 steps and over 20 are two curves; constant rates over 10 and 20 are one."""
    for name, expected in (("cosine", 2), ("constant", 1)):
        for steps in (10, 20):
            schedule = {"name": name} | ({"time": None} if name == "cosine" else {})
            write_run(tmp_path / name / str(steps), 50, 0.1, steps=steps, schedule=schedule)
        assert len(load([str(tmp_path / name)], latest=False)[0]) == expected


def test_a_mean_ends_where_a_replicate_diverges(sweep: Path) -> None:
    """The survivors' mean is no mean of all: the comparison ends there too."""
    write_run(sweep / "width=25", 25, 3 / 25, replicates=2)
    file = sweep / "width=25" / "metrics.csv"
    frame = pd.read_csv(file)
    frame.loc[(frame["step"] >= 100) & (frame["replicate"] == 1), "population_loss"] = np.inf
    frame.to_csv(file, index=False)
    curves, _ = load([str(sweep)], latest=False)
    assert curves[0].table("population_loss").loc[100].isna().tolist() == [False, True]
    s = study(curves, "population_loss", 0.05, absolute=False)
    assert all(g.differences.index[-1] == 79 for g in s.gaps)


def test_a_reference_ends_where_a_replicate_of_it_diverges(tmp_path: Path) -> None:
    """The largest of finite widths is a mean of all of its networks, or none."""
    for n in (50, 100, 800):
        write_run(tmp_path / str(n), n, 3 / n, replicates=2)
    file = tmp_path / "800" / "metrics.csv"
    frame = pd.read_csv(file)
    frame.loc[frame["replicate"] == 1, "population_loss"] += 0.2
    frame.loc[(frame["step"] >= 100) & (frame["replicate"] == 1), "population_loss"] = np.inf
    frame.to_csv(file, index=False)
    s = study(load([str(tmp_path)], latest=False)[0], "population_loss", 0.05, absolute=False)
    for gap in s.gaps:
        assert gap.differences.index[-1] == 79
        np.testing.assert_allclose(gap.of_mean(), abs(3 / gap.width - 3 / 800 - 0.1))


def test_compare_leaves_out_what_cannot_be_compared(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A setting with one width is told and passed over."""
    write_run(sweep / "alone", 50, 0.1, init={"tau2": 7.0})
    assert cli.run(["compare", str(sweep), "--metrics", "population_loss", "--times", "1,10"]) == 0
    captured = capsys.readouterr()
    assert "left out: metric population_loss" in captured.err
    assert "tau2=7" in captured.err
    assert "t=1      t=10" in captured.out


@pytest.mark.parametrize(
    "options",
    [
        ["--format", "pdf"],
        ["--format", "svg", "--x", "t", "--xscale", "linear", "--yscale", "log"],
        ["--xscale", "linear", "--xlim", "-5,100", "--ylim", "-.5,1"],
        [
            "--metrics",
            "population_error",
            "--xlim",
            "1,100",
            "--ylim",
            "0,1",
            "--title",
            "A title",
            "--widths",
            "50,inf",
        ],
    ],
)
def test_plot_options(sweep: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Each writes the file that it prints."""
    assert cli.run(["plot", str(sweep), *options]) == 0
    file = Path(capsys.readouterr().out.strip())
    assert file.parent == sweep
    assert file.stat().st_size > 5_000


def test_plot_shows_every_curve(sweep: Path) -> None:
    """The picture's text names all widths, the limit and the panels; svg keeps text as text."""
    assert cli.run(["plot", str(sweep), "--out", str(sweep / "a.svg")]) == 0
    text = (sweep / "a.svg").read_text()
    for words in ("Population loss", "Classification error", "50", "400", "∞", "SGD step"):
        assert words in text


def _plotted(sweep: Path, *options_: str) -> Figure:
    """The picture, drawn to the end."""
    figure, _ = plot.draw(options.plot().parse_args([str(sweep), *options_]))
    figure.draw_without_rendering()
    return figure


def test_a_range_where_a_row_lacks_a_metric(tmp_path: Path) -> None:
    """Panels without curves are hidden, and refuse no range."""
    for data in ("gaussians", "arrays"):
        write_run(tmp_path / data, 50, 0.1, dataset={"name": data})
    file = tmp_path / "arrays" / "metrics.csv"
    file.write_text(file.read_text().replace("population_", "test_", 2))
    figure = _plotted(tmp_path, "--facet", "dataset", "--xlim", "1,100")
    assert [(ax.get_visible(), ax.get_xlim()) for ax in figure.axes if ax.has_data()] == [(True, (1.0, 100.0))] * 4
    assert len(figure.axes) == 8


def test_a_point_that_no_line_joins_has_a_marker(sweep: Path) -> None:
    """Of a curve in several pieces only the single points."""
    file = sweep / "width=50" / "metrics.csv"
    rows = pd.read_csv(file)
    steps = sorted(rows["step"].unique())
    rows.loc[rows["step"].isin([steps[3], steps[5]]), ["population_loss"]] = math.inf
    rows.to_csv(file, index=False)
    (width_50, width_100, *_) = _plotted(sweep).axes[0].lines
    assert [steps[1:][i] for i in width_50.get_markevery()] == [steps[4]]
    assert width_100.get_markevery() == []


def test_titles_and_legends_are_whole(tmp_path: Path) -> None:
    """A long title is broken into lines, though not within a formula; a long legend makes the picture taller."""
    for n in range(10, 24):
        write_run(tmp_path / f"width={n}", n, 1 / n)
    title = f"{'a long title of a sweep ' * 4} $a + b + c + d + e + f + g + h$ {'of many words ' * 3}"
    for words in (["--size=1.6,1.4"], ["--size=1.6,1.4", "--title", title], ["--title", title]):
        figure = _plotted(tmp_path, *words)
        boxes = [artist.get_window_extent() for artist in (*figure.legends, *figure.texts)]
        assert len(boxes) == 1 + ("--title" in words)
        for box in boxes:
            assert 0 <= box.y0 < box.y1 <= figure.bbox.height
            assert 0 <= box.x0 < box.x1 <= figure.bbox.width
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    lines = figure.texts[0]._get_wrapped_text().splitlines()  # type: ignore[attr-defined]
    assert len(lines) > 2
    assert all(line.count("$") in (0, 2) for line in lines)


@pytest.mark.filterwarnings("error")
def test_a_logarithmic_axis_of_curves_that_reach_zero(sweep: Path) -> None:
    """Where one diverged the range is that of the others, as far as it has a logarithm."""
    write_run(sweep / "zero", 25, -1.0)
    file = sweep / "zero" / "metrics.csv"
    pd.read_csv(file).assign(population_loss=0.0).to_csv(file, index=False)
    RunDirectory(sweep / "width=50").write_status("diverged", step=STEPS, steps=STEPS)
    low, high = _plotted(sweep, "--yscale=log", "--metrics=population_loss").axes[0].get_ylim()
    assert 0.01 < low < limit_curve(STEPS)
    assert 1 < high < 1.3


def test_plot_of_a_run_that_has_just_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No row yet is told in a line; one row is drawn."""
    run = RunDirectory(tmp_path / "new")
    run.create({"width": 50})
    assert cli.run(["plot", str(tmp_path)]) == 2
    assert "no run here has written a row yet" in capsys.readouterr().err
    run.append([{"step": 0, "t": 0.0, "replicate": 0, "train_loss": 1.0, "wall_seconds": 0.0}])
    assert cli.run(["plot", str(tmp_path)]) == 0


def test_half_written_row_is_left_out(sweep: Path) -> None:
    """A row that is being written while ``plot`` reads."""
    file = sweep / "width=50" / "metrics.csv"
    before = len(RunDirectory(sweep / "width=50").metrics())
    with file.open("a") as out:
        out.write("1001,10.01,0,0.12")
    assert len(RunDirectory(sweep / "width=50").metrics()) == before
    assert cli.run(["compare", str(sweep)]) == 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["plot"], "no run or sweep named"),
        (["plot", "nowhere"], "nowhere: no such folder"),
        (["plot", "{sweep}", "--metrics", "accuracy"], "--metrics accuracy: not logged"),
        (["plot", "{sweep}", "--out", "{sweep}/a.bmp"], "the format is told by the ending"),
        (["plot", "{sweep}", "--out", "{sweep}/no/such/a.png"], "cannot be written"),
        (["plot", "{sweep}", "--xlim", "1"], "a range is two numbers"),
        (["plot", "{sweep}", "--widths", "77"], "no such width"),
        (["plot", "{sweep}", "--xlim", "0,100"], "--xlim 0,100: a logarithmic axis begins above 0; --xscale linear"),
        (["plot", "{sweep}", "--yscale=log", "--ylim=0,1"], "--ylim 0,1: a logarithmic axis begins above 0; --yscale"),
        (["plot", "{sweep}", "--dpi", "nan"], "--dpi: nan: a number from 10 to 2400"),
        (["plot", "{sweep}", "--dpi", "1e9"], "--dpi: 1e9: a number from 10 to 2400"),
        (["plot", "{sweep}", "--size", "101,2"], "--size 101,2: inches, WIDTH,HEIGHT, both > 0 and at most 100"),
        (["plot", "{sweep}", "--size", "40,40", "--dpi", "1000"], "--dpi 1000: 80000 x 40000 pixels are too many"),
        (["plot", "{sweep}", "--font-size", "0"], "--font-size: 0: a number from 1 to 100"),
        (["plot", "{sweep}", "--size", "1,1", "--font-size", "20"], "labels and legend leave no room for the panels"),
        (["plot", "{sweep}", "--title", r"a $\frac{$"], r"--title a $\frac{$: matplotlib cannot read its mathematics"),
        (["plot", "{sweep}", "--steps", "10"], "--steps 10: names the states of --weights"),
        (["plot", "{sweep}", "--facet=a", "--facet=b"], "--facet: b: is given twice"),
        (["compare", "{sweep}/width=50"], "at least two widths"),
        (["compare", "{sweep}", "--tolerance", "-1"], "--tolerance"),
        (["compare", "{sweep}", "--steps", "a"], "a list of numbers"),
        (["status", "nowhere"], "no such folder"),
    ],
)
def test_bad_input(sweep: Path, argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that says what is wrong, exit code 2."""
    assert cli.run([a.replace("{sweep}", str(sweep)) for a in argv]) == 2
    err = capsys.readouterr().err.strip()
    assert words in err
    assert "\n" not in err


def test_metrics_of_another_program(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A CSV that mfrun did not write is named."""
    (sweep / "width=50" / "metrics.csv").write_text("epoch,acc\n1,0.5\n")
    assert cli.run(["plot", str(sweep)]) == 2
    assert "not a metrics file of mfrun" in capsys.readouterr().err


def test_status_lists_every_run(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a run."""
    RunDirectory(sweep / "width=50").write_status("running", step=10, steps=STEPS)
    assert cli.run(["status", str(sweep)]) == 0
    out = capsys.readouterr().out
    assert out.count("finished") == 4
    assert "running 10/1000" in " ".join(out.split())


def test_a_gap_that_is_zero_at_the_only_step(tmp_path: Path) -> None:
    """Two widths with equal errors and one evaluation after the start: as early as a sweep can be compared."""
    for n in (3, 5):
        run = tmp_path / f"width={n}"
        run.mkdir()
        (run / "config.yaml").write_text(f"width: {n}\n")
        rows = "".join(f"{k},{k},0,{1 / n},0.5,0.1\n" for k in (0, 1))
        (run / "metrics.csv").write_text(f"step,t,replicate,population_loss,population_error,wall_seconds\n{rows}")
    for words in ([], ["--absolute"]):
        assert compare.main(options.compare().parse_args([str(tmp_path), *words])) == 0
        assert (tmp_path / "compare.png").stat().st_size > 0


def test_of_a_reference_that_does_not_move_nothing_is_known_of_horizons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tolerance is a fraction of no range, where it is not absolute."""
    write_run(tmp_path / "width=50", 50, 0.01)
    write_run(tmp_path / "width=inf", math.inf, 0.0)
    file = tmp_path / "width=inf" / "metrics.csv"
    pd.read_csv(file).assign(population_loss=0.5).to_csv(file, index=False)
    words = ["compare", str(tmp_path), "--metrics", "population_loss"]
    assert cli.run(words) == 0
    said = capsys.readouterr().out
    assert "horizon at gap ?\n" in said
    assert "never" not in said
    assert "! the reference does not move: no range for the horizon's tolerance" in said
    assert pd.read_csv(tmp_path / "compare.csv")["horizon_t"].tolist() == ["?"]
    assert cli.run([*words, "--absolute"]) == 0
    assert "the reference does not move" not in capsys.readouterr().out
    (s,) = compare.measure(options.compare().parse_args(words[1:])).studies
    assert not any("stays near" in line or "leaves" in line for line in report.sentences(s))


@pytest.mark.parametrize(("low", "high"), [(900.0, 3000.0), (0.09, 0.95), (1.0, 1e6), (3.0, 4.0)])
@pytest.mark.parametrize("which", ["x", "y"])
def test_log_ticks_do_not_overlap(low: float, high: float, which: str) -> None:
    figure, ((axes,),) = style.panels(1, 1)
    axes.plot([low, high], [low, high])
    style.log_scale(axes, which)
    _refuse_overlaps(figure, axes, which)


@pytest.mark.parametrize("high", [2.3035, 2.2976, 2.7])
def test_log_ticks_of_a_narrow_range_are_told_apart(high: float) -> None:
    figure, ((axes,),) = style.panels(1, 1)
    axes.plot([1, 2], [2.2975, high])
    style.log_scale(axes, "y")
    figure.draw_without_rendering()
    low, high = axes.get_ylim()
    values = [(t.label1.get_text(), t.get_loc()) for t in axes.yaxis.get_minor_ticks() if low <= t.get_loc() <= high]
    assert len(values) > 2
    assert [float(text) for text, _ in values] == pytest.approx([value for _, value in values], rel=1e-9)


@pytest.mark.parametrize(
    "widths", [[25, 50, 100], [100, 400, 800, 1600, 1e4, 1e6, 1e8, 1e10, 1e12], list(range(20, 40))]
)
def test_width_ticks_do_not_overlap(widths: list[float]) -> None:
    figure, ((axes,),) = style.panels(1, 1)
    axes.plot(widths, widths)
    style.log_ticks(axes, widths)
    _refuse_overlaps(figure, axes, "x")
    assert axes.get_xticklabels()[-1].get_text()


def _refuse_overlaps(figure, axes, which: str) -> None:
    figure.draw_without_rendering()
    axis = axes.xaxis if which == "x" else axes.yaxis
    inside = [t for t in [*axis.get_major_ticks(), *axis.get_minor_ticks()] if t.label1.get_text()]
    low, high = axis.get_view_interval()
    boxes = [t.label1.get_window_extent() for t in inside if low <= t.get_loc() <= high]
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert not a.overlaps(b)


# -- runs that differ in more than the width -------------------------------------------------------------------------


def test_of_the_largest_width_real_networks_are_the_truth(tmp_path: Path) -> None:
    """What stands for it is a row, and its own width no point of the rate."""
    for n, neurons in ((50, None), (100, None), (400, 16), (400, None)):
        write_run(tmp_path / f"{n}{neurons}", n, 3 / n if neurons is None else 0.5, neurons=neurons)
    s = study(load([str(tmp_path)], latest=False)[0], "population_loss", 0.05, absolute=False)
    assert s.reference == "400"
    assert [(g.width, g.neurons) for g in s.gaps] == [(50, None), (100, None), (400, 16)]
    # 3/50 - 3/400 and 3/100 - 3/400.
    assert s.fit_one.rate == pytest.approx(math.log2((3 / 50 - 3 / 400) / (3 / 100 - 3 / 400)), abs=1e-6)


def test_networks_meet_the_limit_at_the_same_samples(tmp_path: Path) -> None:
    """Where runs repeat a network at other samples, all are taken at those that most widths have."""
    for seed in (0, 1):
        seeds = {"seed": {"init": 0, "eval": seed}}
        write_run(tmp_path / f"n{seed}", 50, 0.06 + 0.1 * seed, **seeds)
        write_run(tmp_path / f"inf{seed}", math.inf, 0.1 * seed, bar=1e-4, **seeds)
    write_run(tmp_path / "n", 100, 0.13, seed={"init": 0, "eval": 1})
    s = study(load([str(tmp_path)], latest=False)[0], "population_loss", 0.05, absolute=False)
    assert [g.of_one().iloc[-1] for g in s.gaps] == pytest.approx([0.06, 0.03])
    assert s.unlike == {}


def test_a_metric_of_some_runs_is_found_whatever_their_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, init, further in (("a", 0, []), ("b", 1, ["types_1"])):
        write_run(tmp_path / name / "50", 50, 0.06, seed={"init": init})
        file = tmp_path / name / "50" / "metrics.csv"
        frame = pd.read_csv(file)
        frame.assign(**dict.fromkeys(further, 2.0)).to_csv(file, index=False)
    for names in ("ab", "ba"):
        curves, _ = load([str(tmp_path / name) for name in names], latest=False)
        assert "types_1" in curves[0].metrics()
        assert curves[0].table("types_1").shape[1] == 1
    write_run(tmp_path / "100", 100, 0.03)
    assert cli.run(["compare", str(tmp_path), "--metrics", "types_1,population_loss"]) == 0
    assert "a comparison needs at least two widths" in capsys.readouterr().err


def test_what_has_diverged_has_no_error(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The class of NaN is a class: without a loss no other metric of a row means anything, which is said."""
    folder = sweep / "width=50"
    file = folder / "metrics.csv"
    frame = pd.read_csv(file)
    frame.loc[(frame["step"] >= 100) & (frame["replicate"] == 1), ["population_loss", "population_error"]] = [np.nan, 1]
    frame.to_csv(file, index=False)
    RunDirectory(folder).write_status("diverged", step=STEPS, steps=STEPS)
    curves, _ = load([str(sweep)], latest=False)
    s = study(curves, "population_error", 0.05, absolute=False)
    assert s.gaps[0].differences.index[-1] == 79
    assert s.gaps[0].of_one().to_numpy() == pytest.approx(3 / 50)
    assert cli.run(["compare", str(sweep)]) == 0
    assert "! n = 50 diverged; what is compared ends at step 79" in capsys.readouterr().out
    assert cli.run(["report", str(sweep)]) == 0
    assert "before runs diverged" in (sweep / "report.html").read_text()


def test_before_the_first_evaluation_there_is_no_gap(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["compare", str(sweep), "--metrics", "population_loss", "--times", "0.001,1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = next(i for i, line in enumerate(lines) if "t=0.001" in line)
    assert lines[heads + 1].split()[-2:] == ["-", "0.06"]


def test_widths_as_they_may_be_written(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is a number, whatever it looks like; one that is not here is named."""
    write_run(sweep / "many", 10**12, 0.0, neurons=16)
    args = options.plot().parse_args([str(sweep), "--widths", "50, 1000000000000,inf", "--metrics", "population_loss"])
    assert len(plot.draw(args)[0].axes[0].lines) == 3
    assert cli.run(["plot", str(sweep), "--widths", "50,77"]) == 2
    assert "--widths 77: no such width here; there are 50, 100, 200, 400, 1e12, inf" in capsys.readouterr().err


def test_settings_by_names_that_are_not_the_networks_own(tmp_path: Path) -> None:
    """A teacher's width is no network's; and no line of the legend is without words."""
    for first in (32, 64):
        write_run(tmp_path / f"inf{first}", math.inf, 0.0, bar=1e-3, particles={"first": first})
    write_run(tmp_path / "50", 50, 0.06)
    curves, _ = load([str(tmp_path)], latest=False)
    assert {describe(c.setting) for c in curves} == {"", "particles.first=32", "particles.first=64"}
    assert describe({"dataset.width": 4, "init.tau2": 0.5, "dataset.name": "teacher"}) == (
        "dataset.width=4, tau2=0.5, dataset=teacher"
    )
    figure, _ = plot.draw(options.plot().parse_args([str(tmp_path)]))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert all(label.strip() for label in labels)
    assert "particles.first=32\n($n = \\infty$: dashed)" in labels
