"""``mfrun plot``: the learning curves of all widths over one another, as in the paper's figures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mfrun.errors import UserError
from mfrun.runs.directory import read_sweep
from mfrun.study import style
from mfrun.study.curves import Curve, choose_metrics, describe, is_limit, load, title


def main(args: argparse.Namespace) -> int:
    """Entry point of the command."""
    figure, folder = draw(args)
    file = Path(args.out) if args.out else folder / f"{'weights' if args.weights else 'curves'}.{args.format}"
    style.save(figure, file)
    print(file)
    return 0


def draw(args: argparse.Namespace) -> tuple[Figure, Path]:
    """The picture that the command's options ask for, and the folder that it belongs to.

    Raises:
        UserError: there is nothing to draw, or too much to tell apart.
    """
    curves, folder = load(args.paths, args.latest)
    if args.widths:
        wanted = args.widths.split(",")
        curves = [c for c in curves if c.label in wanted]
        if not curves:
            raise UserError(f"--widths {args.widths}: no such width here")
    settings = list(dict.fromkeys(describe(c.setting, args.style) for c in curves))
    if len(settings) > len(style.LINES):
        keys = ", ".join(dict.fromkeys(k for c in curves for k in c.setting))
        raise UserError(f"{len(settings)} settings to tell apart by line style; choose keys with --style, of {keys}")
    colours = style.colours([c.width for c in curves])
    looks = [style.look(c.width, colours, style.LINES[settings.index(describe(c.setting, args.style))]) for c in curves]
    if args.weights:
        # It restores networks, and so needs torch, which curves do without.
        from mfrun.study import weights

        figure = weights.figure(curves, looks, args.steps)
    else:
        figure = _figure(curves, looks, args)
    style.legend(figure, colours, [c.width for c in curves], settings)
    above = args.title or (read_sweep(folder) or {}).get("title")
    if above:
        figure.suptitle(above)
    return figure, folder


def _figure(curves: list[Curve], looks: list[dict[str, Any]], args: argparse.Namespace) -> Figure:
    """A panel for each metric."""
    metrics = choose_metrics(curves, args.metrics)
    figure, axes = style.panels(1, len(metrics))
    for ax, metric in zip(axes[0], metrics, strict=True):
        for curve, look in zip(curves, looks, strict=True):
            _draw(ax, curve, metric, args.x, look, log=args.xscale == "log")
        ax.set_title(title(metric))
        ax.set_xscale(args.xscale)
        ax.set_xlabel("SGD step" if args.x == "step" else r"time $t = k\alpha$")
        if args.yscale:
            ax.set_yscale(args.yscale)
        for limits, apply in ((args.xlim, ax.set_xlim), (args.ylim, ax.set_ylim)):
            if limits:
                apply(*_limits(limits))
    return figure


def _draw(ax: Axes, curve: Curve, metric: str, x: str, look: dict[str, Any], log: bool) -> None:
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
    ax.plot(where, mean, zorder=order, **look)
    spread = curve.bar(metric) if is_limit(curve) else values.std(axis=1) if values.shape[1] > 1 else None
    if spread is not None:
        spread = spread.reindex(values.index)
        ax.fill_between(
            where, mean - spread, mean + spread, color=look["color"], alpha=0.18, linewidth=0, zorder=order - 1
        )


def _limits(text: str) -> tuple[float, float]:
    try:
        low, high = (float(v) for v in text.split(","))
    except ValueError as error:
        raise UserError(f"{text}: a range is two numbers, as in 0,1") from error
    return low, high
