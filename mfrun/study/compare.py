"""``mfrun compare``: table, CSV and figure of the convergence of finite widths to the limit."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mfrun.config import stood_label
from mfrun.errors import UserError
from mfrun.runs.columns import doubt
from mfrun.study import kernels, predicted, style, widths
from mfrun.study.bootstrap import BOOTSTRAPPED
from mfrun.study.convergence import Fit, Marks, Study, rms, study, table
from mfrun.study.curves import Curve, alike, choose_metrics, describe, load, settings_of, title
from mfrun.study.prediction import Prediction
from mfrun.study.written import write


def main(args: argparse.Namespace) -> int:
    """Entry point of the command."""
    measured = measure(args)
    # What cannot be laid beside a prediction is said before anything is written.
    prediction = predicted.of_some(args.predict, measured.curves) if args.predict else None
    # A setting without a metric, or with one width only, is no reason to be silent about the others.
    for line in measured.left_out:
        print(f"left out: {line}", file=sys.stderr)
    print(text(measured.studies, measured.marks))
    tables = {"compare": [measured.table], "compare_kernels": _of_kernels(measured)}
    if prediction is not None:
        tables["compare_predicted"] = _beside_prediction(measured, prediction, args.predict)
    joined = {name: pd.concat(some, ignore_index=True) for name, some in tables.items() if some}
    write(Path(args.out) if args.out else measured.folder, joined, figure(measured.studies), args.format)
    return 0


def of_kernels(measured: Measured) -> list[kernels.Comparison]:
    """What the hidden layers do, in each setting whose runs have taken that down."""
    settings = list({repr(s.setting): s.setting for s in measured.studies}.values())
    found = [kernels.compare(alike(measured.curves, setting), setting) for setting in settings]
    return [one for one in found if one is not None]


def _of_kernels(measured: Measured) -> list[pd.DataFrame]:
    """Say what the hidden layers do; a table for each setting."""
    found = of_kernels(measured)
    for one in found:
        print(kernels.text(one))
    return [one.table.assign(step=one.step, **{k: str(v) for k, v in one.setting.items()}) for one in found]


def _beside_prediction(
    measured: Measured, prediction: tuple[Prediction, list[Curve]], folder: str
) -> list[pd.DataFrame]:
    """Lay what was measured beside what ``mfrun predict`` has said of the curves that it is about, a table for each."""
    found, about = prediction
    # Without a tolerance there is no time to continue horizons to, as the growth of distances would.
    still = replace(found, growth={})
    tables = []
    for s in measured.studies:
        if not all(any(c is one for one in about) for c in alike(measured.curves, s.setting)):
            print(f"left out: {s.metric} [{describe(s.setting)}]: {folder} is of another setting", file=sys.stderr)
            continue
        steps = list(measured.marks.of(s).values())
        print(predicted.beside_text(s, found if s.has_tolerance else still, steps, folder))
        where = {"metric": s.metric, **{k: str(v) for k, v in s.setting.items()}}
        tables.append(predicted.beside(s, found, steps).assign(**where))
    return tables


@dataclass(frozen=True)
class Measured:
    """What the command has found.

    Attributes:
        studies: one for each setting and metric.
        marks: where gaps are listed.
        left_out: why there is none for a setting and metric, a line each.
        folder: that the files belong to.
        curves: what was compared.
    """

    studies: list[Study]
    marks: Marks
    left_out: list[str]
    folder: Path
    curves: list[Curve]

    @property
    def table(self) -> pd.DataFrame:
        """One row for each setting, metric and width."""
        return table(self.studies, self.marks)


def measure(args: argparse.Namespace) -> Measured:
    """Compare what the command's options name.

    Raises:
        UserError: there is nothing to compare.
    """
    if not args.tolerance > 0:
        raise UserError(f"--tolerance {args.tolerance}: must be a number > 0")
    curves, folder = load(args.paths, args.latest)
    metrics = choose_metrics(curves, args.metrics)
    studies, skipped = [], []
    for setting in settings_of(curves):
        for metric in metrics:
            try:
                studies.append(study(alike(curves, setting), metric, args.tolerance, args.absolute, setting))
            except UserError as error:
                where = f" [{describe(setting)}]" if setting else ""
                skipped.append(f"{error}{where}")
    if not studies:
        raise UserError(skipped[0])
    return Measured(studies, _marks(args.steps, args.times, studies), skipped, folder, curves)


def text(studies: list[Study], marks: Marks) -> str:
    """The table for the terminal."""
    lines = []
    for s in studies:
        what = "the limit n = inf" if s.reference == "inf" else f"n = {s.reference}, the largest width here (no inf)"
        where = f" [{describe(s.setting)}]" if s.setting else ""
        at = f"{s.tolerance:.3g}" if s.has_tolerance else "?"
        lines.append(f"\n{s.metric}{where}: gap to {what}, steps 1 to {s.last}; horizon at gap {at}")
        named = [stood_label(g.width, g.neurons) for g in s.gaps]
        wide = max(6, *map(len, named))
        head = f"{'n':>{wide}} {'gap of mean':>12} {'noise':>9}  {'gap of one':>10} {'horizon t':>10} {'step':>8}"
        chosen = marks.of(s)
        lines.append(head + "".join(f" {name:>9}" for name in chosen))
        for g, name in zip(s.gaps, named, strict=True):
            horizon, one = g.horizon(s.tolerance), g.of_one()
            never = "never" if s.has_tolerance else "?"
            t, step = (f"{horizon[1]:.4g}", str(horizon[0])) if horizon else (never, never)
            flags = {True: "*", False: " ", None: "?"}
            mean_flag, one_flag = flags[g.mean_flagged()], flags[g.one_flagged()]
            noise = "?" if g.replicates == 1 else f"{rms(g.noise()):.2g}"
            row = f"{name:>{wide}} {rms(g.of_mean()):>12.3g}{mean_flag}{noise:>9}  "
            row += f"{rms(one):>10.3g}{one_flag}{t:>10} {step:>8}"
            for k in chosen.values():
                gap = g.one_at(k)
                row += f" {'-':>9}" if math.isnan(gap) else f" {gap:>9.2g}"
            lines.append(row)
        lines.append(f"  rate r in gap ~ n^-r: mean {_rate(s.fit_mean)}, one network {_rate(s.fit_one)}")
        if s.law.widths >= 3:
            lines.append(f"  horizon t = {s.law.a:.3g} + b ln n, b = {s.law.b:.3g} [{s.law.low:.3g}, {s.law.high:.3g}]")
        if any(g.neurons for g in s.gaps):
            twice = len({g.width for g in s.gaps}) < len(s.gaps)
            once = "; rate and horizon take each n once, real or by the most neurons" if twice else ""
            lines.append(f"  n by N: N neurons a layer stand for n (docs/width.md){once}")
        if any(g.mean_flagged() or g.one_flagged() for g in s.gaps):
            lines.append(
                "  * not above the noise (95 %: chance of the start over replicates, the reference's own error)"
            )
            lines += _enough(s)
        lines += [f"  ! {caveat}" for caveat in caveats(s)]
        if s.samples_error > 0 and not s.unlike:
            lines.append(
                "  common to all widths, so that gaps are free of them: the evaluation's samples (standard error of a "
                f"value up\n  to {s.samples_error:.2g}) and, of one seed.data, the batches"
            )
        if any(g.mean_flagged() is None for g in s.gaps):
            lines.append("  ? one replicate does not show the chance of the start; replicates=4 or more would")
    return "\n".join(lines)


def caveats(s: Study) -> list[str]:
    """What takes something away from the numbers of a comparison, a line each."""
    lines = []
    if s.diverged:
        lines.append(f"n = {', '.join(s.diverged)} diverged; what is compared ends at step {s.last}")
    for key, values in s.unlike.items():
        chance = "samples of the evaluation" if key == "seed.eval" else "batches"
        error = f", a standard error of up to {s.samples_error:.2g}" if key == "seed.eval" else ""
        lines.append(f"{key} is {' and '.join(values)}: gaps hold the chance of the {chance}{error}")
    if s.doubtful is not None and s.doubtful[0] <= s.last:
        lines.append(doubt((s.doubtful[0], min(s.doubtful[1], s.last))))
    if not s.has_tolerance:
        lines.append("the reference does not move: no range for the horizon's tolerance; --absolute takes it as it is")
    if s.drowns:
        more = "particles" if s.reference == "inf" else f"replicates of n = {s.reference}"
        lines.append(f"the horizon's tolerance is below the reference's own error: more {more} are needed")
    return lines


def _enough(s: Study) -> list[str]:
    """How many replicates would tell the starred gaps of the mean from noise, as far as two or three can say."""
    found = [(g.width, g.replicates_to_tell()) for g in s.gaps if g.mean_flagged() and g.replicates < BOOTSTRAPPED]
    wanted = [f"{count} at n = {int(width)}" for width, count in found if count is not None]
    if not wanted:
        return []
    return [f"    replicates that would tell the gap of the mean, if it is as large as it looks: {', '.join(wanted)}"]


def _rate(f: Fit) -> str:
    if math.isnan(f.rate):
        return f"cannot be estimated: {f.why}"
    interval = f" [{f.low:.2f}, {f.high:.2f}]" if f.source else ""
    return f"{f.rate:.2f}{interval}"


def _marks(steps: str | None, times: str | None, studies: list[Study]) -> Marks:
    """Where gaps are listed: at the steps and times asked for, else at the decades."""
    chosen = _numbers("--steps", steps)
    if steps is None and times is None:
        last = max(int(s.gaps[0].differences.index[-1]) for s in studies)
        chosen = [10.0**e for e in range(2, int(math.log10(max(last, 1))) + 1)]
    return Marks(sorted({int(k) for k in chosen}), sorted(set(_numbers("--times", times))))


def _numbers(option: str, text: str | None) -> list[float]:
    try:
        numbers = [float(k) for k in text.split(",")] if text else []
    except ValueError:
        numbers = [math.nan]
    if not all(0 < number < math.inf for number in numbers):
        raise UserError(f"{option} {text}: a list of numbers > 0, as in 100,1000")
    return numbers


@style.styled
def figure(studies: list[Study]) -> Figure:
    """A row for each setting and metric: gap over the run, gap against n, horizon against n."""
    picture, axes = style.panels(len(studies), 3, width=3.3, height=2.6)
    colours = style.colours([g.width for s in studies for g in s.gaps])
    for row, s in zip(axes, studies, strict=True):
        dotted = widths.beside((g.width, g.neurons) for g in s.gaps)
        for g in s.gaps:
            look = style.look(g.width, colours, "-", (g.width, g.neurons) in dotted)
            _positive(row[0], g.of_one(), **look, label=style.named(g.width, g.neurons))
        bar = s.gaps[0].reference_bar_of_one
        if (bar > 0).any():
            label = "limit's bar" if s.reference == "inf" else "reference's bar"
            _positive(row[0], bar, **{**style.LIMIT, "linewidth": 1.0}, label=label)
        if s.has_tolerance:
            row[0].axhline(s.tolerance, color="0.5", linewidth=0.8, linestyle=":")
        row[0].set(title=f"{title(s.metric)}: gap of one network", xlabel="SGD step")
        style.log_scale(row[0], "x")
        positive = any((g.of_one() > 0).any() for g in s.gaps) or (bar > 0).any()
        if positive or s.has_tolerance:
            style.log_scale(row[0], "y")
        if not positive:
            # Where all gaps are 0, nothing has told the logarithmic axis where it lies.
            steps = s.gaps[0].differences.index
            row[0].set_xlim(steps[0] / 2, steps[-1] * 2)
        _against_n(row[1], s)
        _horizons(row[2], s)
        if s.setting:
            style.row_label(row[0], describe(s.setting), fontsize=8)
    picture.align_ylabels(axes[:, 0])
    # One legend for the curves of all rows, beside them: inside, it would hide some.
    entries = {label: line for row in axes for line, label in zip(*row[0].get_legend_handles_labels(), strict=True)}
    # Settings may have other widths each: these are sorted, and the bars come after them.
    order = {style.named(g.width, g.neurons): (g.width, g.neurons or 0) for s in studies for g in s.gaps}
    style.beside(picture, [entries[label] for label in sorted(entries, key=lambda one: order.get(one, (math.inf, 0)))])
    return picture


def _positive(ax: Axes, values: pd.Series, **look: Any) -> None:
    """A curve on a logarithmic axis, with gaps where it is 0, and with points where no line joins two."""
    alone = style.alone((values > 0).to_numpy())
    ax.plot(values.where(values > 0), marker=".", markevery=alone, **look)


def _against_n(ax: Axes, s: Study) -> None:
    n = np.array([g.width for g in s.gaps], dtype=float)
    for name, values, f, marker, colour in (
        ("one network", [rms(g.of_one()) for g in s.gaps], s.fit_one, "o", "#2a5d9f"),
        ("mean", [rms(g.of_mean()) for g in s.gaps], s.fit_mean, "s", "#c2571a"),
    ):
        filled = [colour if name == "one network" or not g.mean_flagged() else "white" for g in s.gaps]
        # Where there is no line the points say in the legend whose they are.
        alone = name if math.isnan(f.rate) else None
        look: dict[str, Any] = {
            "edgecolors": colour,
            "facecolors": filled,
            "linewidths": 1.2,
            "zorder": 3,
            "label": alone,
        }
        ax.scatter(n, values, marker=marker, s=22, **look)
        if alone is None:
            interval = f" [{f.low:.2f}, {f.high:.2f}]" if f.source else ""
            label = f"{name}: $r={f.rate:.2f}${interval}"
            ax.plot(n, f.C * n**-f.rate, color=colour, linewidth=1.2, label=label)
    top = max(rms(g.of_one()) for g in s.gaps)
    ax.plot(n, top * (n / n[0]) ** -0.5, color="0.6", linewidth=0.9, linestyle="--", label=r"$1/\sqrt{n}$")
    ax.plot(n, top * (n / n[0]) ** -1.0, color="0.6", linewidth=0.9, linestyle=":", label="$1/n$")
    if top > 0:
        style.log_scale(ax, "y")
    style.log_ticks(ax, n.tolist())
    ax.set(title="gap over the run $\\sim n^{-r}$", xlabel="$n$")
    # Room for the legend above the points.
    low, high = ax.get_ylim()
    if top > 0:
        ax.set_ylim(low, high * (high / low) ** 0.6)
    ax.legend(fontsize=7, loc="upper right")


def _horizons(ax: Axes, s: Study) -> None:
    if not s.has_tolerance:
        ax.set_axis_off()
        ax.set_title("horizon $t$: not known")
        return
    found = [(g.width, g.horizon(s.tolerance)) for g in s.gaps]
    end = float(s.gaps[0].times[s.gaps[0].differences.index[-1]])
    reached = [(n, h[1]) for n, h in found if h]
    never = [n for n, h in found if not h]
    if reached:
        ax.plot(*zip(*reached, strict=True), "o", color="#2a5d9f", markersize=5)
    if s.law.widths >= 3:
        n = np.array([min(reached)[0], max(reached)[0]])
        label = f"$b={s.law.b:.2g}$ [{s.law.low:.2g}, {s.law.high:.2g}]"
        ax.plot(n, s.law.a + s.law.b * np.log(n), color="#c9541b", linewidth=1.2, label=label)
    if never:
        ax.plot(
            never, [end] * len(never), "^", color="#2a5d9f", fillstyle="none", markersize=7, label="never in the run"
        )
    ax.axhline(end, color="0.6", linewidth=0.8, linestyle=":", label="end of the run")
    # t against ln n is a line on a linear axis of t; without the law, horizons of all sizes are to be seen.
    if s.law.widths < 3:
        style.log_scale(ax, "y")
    style.log_ticks(ax, [n for n, _ in found])
    ax.set(title=f"horizon $t$: gap > {s.tolerance:.2g}", xlabel="$n$")
    if never or s.law.widths >= 3:
        ax.legend(fontsize=7)
