"""``mfrun ensemble``: what averaging the outputs of k networks wins back of what a finite width costs."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mfrun.config import stood_label
from mfrun.dynamics.experiment import Problems
from mfrun.errors import UserError
from mfrun.study import predicted, style, widths
from mfrun.study.averages import ALL, Estimate, Study, measure
from mfrun.study.curves import alike, describe, load, settings_of, title
from mfrun.study.power_law import PowerLaw, power_law
from mfrun.study.prediction import Law
from mfrun.study.written import write

# Of the parts of a gap.
LOOKS = {"variance": ("#2a5d9f", "o"), "bias": ("#c2571a", "s")}


def main(args: argparse.Namespace) -> int:
    """Entry point of the command."""
    sizes = _sizes(args.networks)
    curves, folder = load(args.paths, args.latest)
    laws = {law.metric: law for law in predicted.of(args.predict, curves).laws} if args.predict else {}
    problems, studies, left_out = Problems(), list[Study](), list[str]()
    for setting in settings_of(curves):
        # A setting that has nothing to average is no reason to be silent about the others.
        try:
            found, without = measure(alike(curves, setting), setting, args.step, sizes, laws, problems)
            studies, left_out = [*studies, *found], [*left_out, *without]
        except UserError as error:
            left_out.append(str(error))
    if not studies:
        raise UserError(left_out[0])
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    if args.metrics:
        known = list(dict.fromkeys(s.metric for s in studies))
        wanted = args.metrics.split(",")
        for name in wanted:
            if name not in known:
                raise UserError(f"--metrics {name}: not one of {', '.join(known)}")
        studies = [s for s in studies if s.metric in wanted]
    for line in _unpredicted(studies, laws):
        print(f"left out: --predict {args.predict}: {line}", file=sys.stderr)
    print("\n".join(text(s) for s in studies))
    there = max(e.networks for s in studies for e in s.ensembles)
    for k in sizes:
        if not any(k in e.of for s in studies for e in s.ensembles):
            print(f"  k={k} needs more than the {there} networks of a width here, for its standard error as well")
    write(Path(args.out) if args.out else folder, {"ensemble": table(studies)}, figure(studies), args.format)
    return 0


def _unpredicted(studies: list[Study], laws: dict[str, Law]) -> list[str]:
    """The steps of which a prediction says nothing, a line each."""
    found = {s.step: laws[s.metric].frame.index for s in studies if s.metric in laws}
    return [
        f"says nothing of step {step}, and its last step is {steps[-1]}; --step names another"
        for step, steps in found.items()
        if step not in steps
    ]


def _sizes(given: str) -> list[int]:
    try:
        sizes = sorted({int(word) for word in given.split(",")})
    except ValueError:
        sizes = [0]
    if sizes[0] < 1:
        raise UserError(f"--networks {given}: whole numbers from 1 on, as in 2,4,8")
    return [k for k in sizes if k > 1]


def _named(k: float) -> str:
    return "one" if k == 1 else "k=inf" if math.isinf(k) else f"k={k:g}"


def table(studies: list[Study]) -> pd.DataFrame:
    """A row for each setting, metric, width and k."""
    rows = []
    for s in studies:
        for e in s.ensembles:
            for k, found in e.of.items():
                row: dict[str, object] = {**s.setting, "metric": s.metric, "step": s.step, "width": int(e.width)}
                row |= {"neurons": e.neurons, "networks": e.networks, "k": "inf" if math.isinf(k) else int(k)}
                row |= {"value": found.value, "value_se": found.error}
                gap = s.gap(e, k)
                if s.limit is not None and gap is not None:
                    row |= {"limit": s.limit.value, "gap": gap.value, "gap_se": gap.error}
                row |= {"variance": e.variance.value, "variance_se": e.variance.error}
                row |= {"predicted_gap": e.predicted.get(k)}
                rows.append(row)
    return pd.DataFrame(rows)


def text(s: Study) -> str:
    """The table for the terminal."""
    where = f" [{describe(s.setting)}]" if s.setting else ""
    sizes = sorted({k for e in s.ensembles for k in e.of})
    there = "(no width=inf on these data here, or it diverged)"
    what = there if s.limit is None else f"as gaps to the limit's {s.limit.value:.4g}"
    wide = max(6, *(len(stood_label(e.width, e.neurons)) for e in s.ensembles))
    lines = [
        f"\n{s.metric}{where} at step {s.step}, of averages of k networks' outputs, {what}",
        f"{'n':>{wide}} {'nets':>5}" + "".join(f" {_named(k):>17}" for k in sizes) + "  won back by k=inf",
    ]
    for e in s.ensembles:
        shown = [e.of.get(k) if s.limit is None else s.gap(e, k) for k in sizes]
        line = f"{stood_label(e.width, e.neurons):>{wide}} {e.networks:>5}" + "".join(
            f" {_with_error(v):>17}" for v in shown
        )
        won = s.won(e)
        unknown = "  -" if s.limit is None else "  ?"
        lines.append(line + (unknown if won is None else f"  {100 * won.value:.0f} % +- {_percent(won.error)}"))
        if e.predicted:
            told = "".join(f" {f'{e.predicted[k]:.3g}' if k in e.predicted else '-':>17}" for k in sizes)
            share = f"  {100 * (1 - e.predicted[ALL] / e.predicted[1]):.0f} %" if e.predicted[1] else ""
            lines.append(f"{'predicted':>{wide + 6}}{told}{share}")
    if s.limit is not None and any(s.won(e) is None for e in s.ensembles):
        lines.append(
            "  ? the gap of one network is not above its error, as far as that is known: more networks, or more "
            "particles, would tell"
        )
    for name, values in s.parts().items():
        law = _law(s, values)
        if law:
            interval = "" if math.isnan(law.low) else f" [{-law.high:.2f}, {-law.low:.2f}]"
            lines.append(f"  {name} part ~ n^-r, r = {-law.exponent:.2f}{interval}")
    return "\n".join(lines)


def _percent(error: float) -> str:
    return "?" if math.isnan(error) else f"{100 * error:.0f}"


def _with_error(e: Estimate | None) -> str:
    if e is None:
        return "-"
    return f"{e.value:.3g} +-{e.error:.1g}" if not math.isnan(e.error) else f"{e.value:.3g} +-?"


def _law(s: Study, values: list[Estimate]) -> PowerLaw | None:
    """Of a part, over the widths at which it is more than its error; None where these are fewer than two."""
    kept = widths.once((e.width, e.neurons) for e in s.ensembles)
    used = [
        (e.width, v.value)
        for e, v in zip(s.ensembles, values, strict=True)
        if (e.width, e.neurons) in kept and v.value > 2 * v.error
    ]
    return power_law([n for n, _ in used], [v for _, v in used]) if len(used) > 1 else None


@style.styled
def figure(studies: list[Study]) -> Figure:
    """A row for each study: gaps (or values) against n for each k, and the parts of the gap of one network."""
    picture, axes = style.panels(len(studies), 2, width=3.5, height=2.7)
    for (left, right), s in zip(axes, studies, strict=True):
        _of_averages(left, s)
        _of_parts(right, s)
        for ax in (left, right):
            style.log_ticks(ax, [e.width for e in s.ensembles])
        if s.setting:
            style.row_label(left, describe(s.setting), fontsize=8)
    entries = {label: line for row in axes for line, label in zip(*row[0].get_legend_handles_labels(), strict=True)}
    predicted_too = any(e.predicted for s in studies for e in s.ensembles)
    heading = "averages of outputs" + ("\n(dashed: predicted)" if predicted_too else "")
    style.beside(picture, list(entries.values()), heading)
    return picture


def _of_averages(ax: Axes, s: Study) -> None:
    sizes = sorted({k for e in s.ensembles for k in e.of})
    lowest = math.inf
    shades = mpl.colormaps["viridis"](np.linspace(0.0, 0.85, len(sizes)))
    for i, (k, shade) in enumerate(zip(sizes, shades, strict=True)):
        # Side by side, so that one bar does not hide another.
        aside = 1.04 ** (i - len(sizes) / 2)
        found = [(e.width * aside, e.of.get(k) if s.limit is None else s.gap(e, k)) for e in s.ensembles]
        label = {1: "one network", ALL: r"$k = \infty$"}.get(k, f"$k = {k:g}$")
        lowest = min(lowest, _points(ax, [(n, v) for n, v in found if v is not None], shade, "o", label))
        told = [(e.width * aside, e.predicted[k]) for e in s.ensembles if k in e.predicted]
        if told:
            ax.plot(*zip(*told, strict=True), "--", color=shade, linewidth=1)
    ax.set(title=f"{title(s.metric)}: {'value' if s.limit is None else 'gap to the limit'}", xlabel="$n$")
    _height(ax, lowest)


def _of_parts(ax: Axes, s: Study) -> None:
    lowest = math.inf
    for name, values in s.parts().items():
        colour, marker = LOOKS[name]
        law = _law(s, values)
        label = f"{name} part" + (f" $\\sim n^{{{law.exponent:.2f}}}$" if law else "")
        of_widths = [(e.width, v) for e, v in zip(s.ensembles, values, strict=True)]
        lowest = min(lowest, _points(ax, of_widths, colour, marker, label))
        if law:
            n = np.array([n for n, _ in of_widths], dtype=float)
            ax.plot(n, law.C * n**law.exponent, color=colour, linewidth=1)
    ax.set(title="parts of one network's gap", xlabel="$n$")
    _height(ax, lowest)
    ax.legend(fontsize=7)


def _points(ax: Axes, values: list[tuple[float, Estimate]], colour: object, marker: str, label: str) -> float:
    """Points with bars of 1.96 standard errors; the least of them."""
    errors = [0.0 if math.isnan(v.error) else 1.96 * v.error for _, v in values]
    ax.errorbar(
        [n for n, _ in values],
        [v.value for _, v in values],
        errors,
        fmt=marker,
        color=colour,
        markersize=4,
        capsize=2,
        elinewidth=1,
        label=label,
    )
    return min(v.value for _, v in values)


def _height(ax: Axes, lowest: float) -> None:
    """A logarithmic axis where all points are positive."""
    if lowest > 0:
        style.log_scale(ax, "y")
    else:
        ax.axhline(0, color="0.6", linewidth=0.8)
