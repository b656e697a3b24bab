"""``mfrun plot``: the learning curves of all widths over one another, as in the paper's figures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mfrun.errors import UserError
from mfrun.study import style
from mfrun.study.curves import Curve, choose_metrics, describe, is_limit, load, title

LINES: list[Any] = ["-", (0, (1, 1)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1))]


def main(argv: list[str]) -> int:
    """Entry point of the command."""
    args = parser().parse_args(argv)
    curves, folder = load(args.paths, args.latest)
    if args.widths:
        wanted = args.widths.split(",")
        curves = [c for c in curves if c.label in wanted]
        if not curves:
            raise UserError(f"--widths {args.widths}: no such width here")
    metrics = choose_metrics(curves, args.metrics)
    settings = list(dict.fromkeys(describe(c.setting, args.style) for c in curves))
    if len(settings) > len(LINES):
        keys = ", ".join(dict.fromkeys(k for c in curves for k in c.setting))
        raise UserError(f"{len(settings)} settings to tell apart by line style; choose keys with --style, of {keys}")
    figure, axes = style.panels(1, len(metrics))
    colours = style.colours([c.width for c in curves])
    for ax, metric in zip(axes[0], metrics, strict=True):
        for curve in curves:
            line = LINES[settings.index(describe(curve.setting, args.style))]
            _draw(ax, curve, metric, args.x, colours[curve.width], line, log=args.xscale == "log")
        ax.set_title(title(metric))
        ax.set_xscale(args.xscale)
        ax.set_xlabel("SGD step" if args.x == "step" else r"time $t = k\alpha$")
        if args.yscale:
            ax.set_yscale(args.yscale)
        for limits, apply in ((args.xlim, ax.set_xlim), (args.ylim, ax.set_ylim)):
            if limits:
                apply(*_limits(limits))
    figure.legend(handles=_legend(curves, colours, settings), loc="outside right center")
    if args.title:
        figure.suptitle(args.title)
    file = Path(args.out) if args.out else folder / f"curves.{args.format}"
    style.save(figure, file)
    print(file)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser(
        "mfrun plot",
        description="Overlay learning curves: colour for the width n, line style for whatever else differs, mean and "
        "one standard deviation over replicates and seeds. The limit is black and dashed, with its 95 % error band.",
    )
    p.add_argument("paths", nargs="*", metavar="RUN_OR_SWEEP", help="folders of runs or sweeps")
    p.add_argument("--latest", action="store_true", help="the newest run or sweep below outputs/ (or below a folder)")
    p.add_argument("--metrics", help="comma-separated columns of metrics.csv; nonpositive means all of its layers")
    p.add_argument("--widths", help="comma-separated widths to draw; all by default")
    p.add_argument("--x", choices=("step", "t"), default="step", help="horizontal axis (step)")
    p.add_argument("--xscale", choices=("log", "linear"), default="log", help="(log)")
    p.add_argument("--yscale", choices=("log", "linear"), help="(linear)")
    p.add_argument("--style", action="append", metavar="KEY", help="draw only these keys' differences as line styles")
    p.add_argument("--xlim", metavar="A,B", help="horizontal range")
    p.add_argument("--ylim", metavar="A,B", help="vertical range")
    p.add_argument("--title", help="above all panels")
    p.add_argument("--out", metavar="FILE", help=".png, .pdf or .svg (curves.png in the folder)")
    p.add_argument("--format", choices=style.FORMATS, default="png", help="where --out is not given (png)")
    return p


def _draw(ax: Axes, curve: Curve, metric: str, x: str, colour: Any, line: Any, log: bool) -> None:
    if metric not in curve.metrics():
        return
    values = curve.table(metric)
    if log:
        values = values[values.index > 0]
    where = pd.Series(values.index, values.index) if x == "step" else curve.times().reindex(values.index)
    # Where a replicate has diverged the mean is no mean of all of them any more: the curve ends there.
    mean = values.mean(axis=1, skipna=False)
    # The limit lies above the finite curves, whatever the order of drawing.
    order = 10.0 if is_limit(curve) else 2.0
    look: dict[str, Any] = {"color": colour, "linestyle": line}
    if is_limit(curve):
        look = style.LIMIT | ({"linestyle": line} if line != LINES[0] else {})
    ax.plot(where, mean, zorder=order, **look)
    spread = curve.bar(metric) if is_limit(curve) else values.std(axis=1) if values.shape[1] > 1 else None
    if spread is not None:
        spread = spread.reindex(values.index)
        ax.fill_between(
            where, mean - spread, mean + spread, color=look["color"], alpha=0.18, linewidth=0, zorder=order - 1
        )


def _legend(curves: list[Curve], colours: dict[float, Any], settings: list[str]) -> list[Line2D]:
    handles = []
    for width in sorted({c.width for c in curves}):
        limit = width == float("inf")
        label = r"$n = \infty$" if limit else f"$n = {int(width)}$"
        handles.append(Line2D([], [], label=label, **(style.LIMIT if limit else {"color": colours[width]})))
    if len(settings) > 1:
        handles += [
            Line2D([], [], color="0.4", linestyle=line, label=label)
            for line, label in zip(LINES, settings, strict=False)
        ]
    return handles


def _limits(text: str) -> tuple[float, float]:
    try:
        low, high = (float(v) for v in text.split(","))
    except ValueError as error:
        raise UserError(f"{text}: a range is two numbers, as in 0,1") from error
    return low, high
