"""Draws docs/horizon_*.png from the runs of scripts/horizon.sh: curves, horizons against n, and the curves shifted."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D

from mfrun.study import style
from mfrun.study.convergence import Study, study
from mfrun.study.curves import Curve, load, unseen_loss

# Of the time since the horizon, what is shown of the shifted curves.
SHIFTED = (-15, 60)
TITLES = {
    "mnist4_tau2": r"MNIST, 4 layers, $\tau_2=2$",
    "mnist4_tau2_N128": r"MNIST, 4 layers, $\tau_2=2$, $N=128$",
    "mnist4_tau2_data": r"MNIST, 4 layers, $\tau_2=2$, $N=128$, samples drawn anew",
    "mnist4_tau01": r"MNIST, 4 layers, $\tau_2=0.1$",
    "mnist5_tau2": r"MNIST, 5 layers, $\tau_2=2$",
    "mnist5_tau01": r"MNIST, 5 layers, $\tau_2=0.1$",
    "gaussians5_tau3": r"Gaussians, 5 layers, $\tau_2=3$",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument(
        "--tolerance", type=float, default=0.2, help="of the horizon, of the range of the limit's curve"
    )
    parser.add_argument("--level", type=float, default=0.5, help="loss, whose passage is timed from the horizon on")
    parser.add_argument("--least", type=float, default=1000, help="leave smaller widths out of the fit")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    for folder in args.folders:
        draw(folder, args.tolerance, args.level, args.least, args.out / f"horizon_{folder.name}.png")


@style.styled
def draw(folder: Path, tolerance: float, level: float, least: float, file: Path) -> None:
    """One row: the curves, the horizons with their line, and the curves against t - b ln n."""
    curves = load([str(folder)], latest=False)[0]
    metric = unseen_loss(curves)
    found = study(curves, metric, tolerance, absolute=False)
    # Small networks leave the limit before they have come to the plateau, where nothing grows exponentially yet.
    found.law = study([c for c in curves if c.width >= least], metric, tolerance, absolute=False).law
    colours = style.colours([c.width for c in curves])
    figure, ((left, middle, right),) = style.panels(1, 3, width=3.1, height=2.7)
    for curve in curves:
        mean, spread = curve.drawn(metric)
        t = curve.times().reindex(mean.index)
        look = style.look(curve.width, colours, "-")
        left.plot(t, mean, **look)
        if spread is not None:
            left.fill_between(t, mean - spread, mean + spread, color=look["color"], alpha=0.15, linewidth=0)
    left.set(title=f"{metric.replace('_', ' ')}", xlabel=r"time $t = k\alpha$")
    horizons(middle, found, least)
    if math.isnan(found.law.b):
        right.set_axis_off()
    else:
        shifted(right, curves, metric, found, colours)
    handles = [
        Line2D([], [], label=style.named(c.width, c.neurons), **style.look(c.width, colours, "-")) for c in curves
    ]
    figure.legend(handles=handles, loc="outside right center")
    figure.suptitle(TITLES.get(folder.name, folder.name))
    style.save(figure, file)
    law = found.law
    print(f"{folder.name}: t_h = {law.a:.3g} + b ln n, b = {law.b:.3g} [{law.low:.3g}, {law.high:.3g}], {law.source}")
    print(f"  {'n':>8} {'t_h':>7} {'off the line':>13} {'from t_h to a loss of ' + str(level):>26}")
    for gap, curve in zip(found.gaps, [c for c in curves if math.isfinite(c.width)], strict=True):
        reached, passed = gap.horizon(found.tolerance), falls_below(curve, metric, level)
        if reached is None:
            print(f"  {gap.width:>8.3g}   never")
            continue
        off = reached[1] - law.a - law.b * math.log(gap.width)
        after = "-" if passed is None else f"{passed - reached[1]:.1f}"
        print(f"  {gap.width:>8.3g} {reached[1]:>7.2f} {off:>+13.2f} {after:>26}")
    print(file)


def horizons(axes, found: Study, least: float) -> None:
    """The horizon of every width, and the line through those from ``least`` on, dashed where it was not fitted."""
    reached = [(g.width, h[1], g.neurons) for g in found.gaps if (h := g.horizon(found.tolerance))]
    for width, t, neurons in reached:
        axes.plot([width], [t], "o", color="#2a5d9f", fillstyle="none" if neurons else "full", markersize=5)
    end = max(g.t[-1] for g in found.gaps)
    never = [g.width for g in found.gaps if not g.horizon(found.tolerance)]
    axes.plot(never, [end] * len(never), "^", color="#2a5d9f", fillstyle="none", markersize=6)
    law = found.law
    axes.set(title="horizon $t_h = a + b\\,\\ln n$", xlabel="$n$")
    style.log_ticks(axes, [g.width for g in found.gaps])
    if math.isnan(law.b):  # Too few of the widths that are fitted leave the limit.
        axes.set(title="horizon $t_h$", ylim=(0, 1.05 * axes.dataLim.y1))
        return
    first, fitted, last = reached[0][0], min(w for w, *_ in reached if w >= least), reached[-1][0]
    label = f"$b = {law.b:.2f}$ [{law.low:.2f}, {law.high:.2f}]"
    for begin, stop, line in ((first, fitted, {"linestyle": ":"}), (fitted, last, {"label": label})):
        n = np.array([begin, stop])
        axes.plot(n, law.a + law.b * np.log(n), color="#c9541b", linewidth=1.3, **line)
    # Once the line is there, so that all of it is seen.
    axes.set_ylim(0, 1.05 * axes.dataLim.y1)
    axes.legend(fontsize=8, loc="lower right")


def falls_below(curve: Curve, metric: str, level: float) -> float | None:
    """The time, interpolated, at which the mean curve first falls below the level."""
    mean, _ = curve.drawn(metric)
    t, v = curve.times().reindex(mean.index).to_numpy(), mean.to_numpy()
    below = np.flatnonzero(v < level)
    if not len(below) or below[0] == 0:
        return None
    i = below[0]
    return float(t[i - 1] + (v[i - 1] - level) / (v[i - 1] - v[i]) * (t[i] - t[i - 1]))


def shifted(axes, curves: list[Curve], metric: str, found: Study, colours: dict) -> None:
    """The curves of finite widths, each against the time since its horizon on the line."""
    for curve in curves:
        if math.isfinite(curve.width):
            mean, _ = curve.drawn(metric)
            t = curve.times().reindex(mean.index) - found.law.a - found.law.b * math.log(curve.width)
            axes.plot(t, mean, **style.look(curve.width, colours, "-"))
    axes.set(title="the same, shifted", xlabel="$t - a - b\\,\\ln n$", xlim=SHIFTED)
    # The range of what is seen, which is cut off at both ends.
    of_lines = [line.get_data() for line in axes.lines]
    seen = [np.interp(np.clip(t, *SHIFTED), t, v) for t, v in of_lines if t[-1] > SHIFTED[0] and t[0] < SHIFTED[1]]
    if seen:
        low, high = min(map(np.nanmin, seen)), max(map(np.nanmax, seen))
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))


if __name__ == "__main__":
    main()
