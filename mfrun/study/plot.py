"""``mfrun plot``: the learning curves of all widths over one another, as in the paper's figures."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mfrun.errors import UserError
from mfrun.runs.directory import read_sweep
from mfrun.study import predicted, style, widths
from mfrun.study.curves import Curve, choose_metrics, describe, is_limit, load, title

# How a picture draws the error that all widths have in common, and what its legend says of it.
SAMPLES = {
    "color": "0.3",
    "linestyle": (0, (1, 2)),
    "linewidth": 0.7,
    "label": "$\\pm$ 1.96 standard\nerrors of the samples",
}
# And the edges of the bands that `mfrun predict` says networks of a width lie in.
PREDICTED = {"color": "0.3", "linestyle": (0, (4, 1.5)), "linewidth": 0.8, "label": "predicted: 95 %\nof networks"}
# And where a curve ends that has diverged.
DIVERGED: dict[str, Any] = {"color": "0.2", "linestyle": "none", "marker": "x", "label": "diverged"}
# What decides on how many neurons a layer of a stand-in has, where these are not N.
LAYERS = {"stand_in.first": "layer 1", "stand_in.last": "last hidden layer"}
# Inches of a panel, and the most that a side may have.
SIZE, LARGEST = (2.9, 2.5), 100.0
# Options that say how learning curves are drawn, and what they are where they are not given.
OF_CURVES: dict[str, object] = {
    **dict.fromkeys(("facet", "metrics", "predict", "xlim", "ylim", "yscale")),
    **{"se": False, "x": "step", "xscale": "log"},
}


def main(args: argparse.Namespace) -> int:
    """Entry point of the command."""
    figure, folder = draw(args)
    name = "weights" if args.weights else "curves"
    # A picture of other panels than the default ones stands beside it.
    chosen = f"_{args.metrics.replace(',', '_')}" if args.metrics and not args.weights else ""
    file = Path(args.out) if args.out else folder / f"{name}{chosen}.{args.format}"
    style.save(figure, file, args.dpi)
    print(file)
    return 0


def draw(args: argparse.Namespace) -> tuple[Figure, Path]:
    """The picture that the command's options ask for, and the folder that it belongs to.

    Raises:
        UserError: there is nothing to draw, or too much to tell apart.
    """
    with style.looks(args.style_file, args.font_size):
        curves, folder = load(args.paths, args.latest)
        # A width keeps its colour in a picture of a few of them.
        colours = style.colours([c.width for c in curves])
        if args.widths:
            curves = _of_widths(curves, args.widths)
        if args.weights:
            _refuse_those_of_curves(args)
        if args.steps and not args.weights:
            raise UserError(f"--steps {args.steps}: names the states of --weights, which is not there")
        if args.facet and args.facet in (args.style or []):
            raise UserError(f"--style {args.facet}: is told by the rows of --facet; another key, or none")
        facets = _facets(curves, args.facet)
        beside = _varying(curves, [args.facet], "--facet") if args.facet else []
        told = _varying(curves, args.style, "--style") if args.style else [k for k in _keys(curves) if k not in beside]
        settings = [words for words in dict.fromkeys(describe(c.setting, told) for c in curves) if words] or [""]
        # What lacks all of the keys is solid as the first setting is; but where these tell stand-ins apart, real
        # networks have the solid line to themselves.
        stood = settings != [""] and all(c.neurons for c in curves if describe(c.setting, told))
        free = style.LINES[1:] if stood else style.LINES
        if len(settings) > len(free):
            keys = ", ".join(_keys(curves))
            why = f"choose keys with --style, of {keys}, or --facet one"
            raise UserError(f"{len(settings)} settings to tell apart by line style; {why}")
        of_settings = dict(zip(settings, free, strict=False))
        lines = {"": style.LINES[0]} | of_settings
        there = [(c.width, c.neurons) for c in curves]
        dotted = widths.beside(there)
        looks = [
            style.look(c.width, colours, lines[describe(c.setting, told)], (c.width, c.neurons) in dotted)
            for c in curves
        ]
        if args.weights:
            # It restores networks, and so needs torch, which curves do without.
            from mfrun.study import weights

            figure = weights.figure(curves, looks, args.steps, _size(args.size, weights.SIZE))
        else:
            of_curves = dict(zip(map(id, curves), looks, strict=True))
            figure = _figure(facets, of_curves, args)
            if args.predict:
                _bands(figure, facets, of_curves, args)
        words = _in_words(curves, told)
        said = {words[setting]: line for setting, line in of_settings.items()}
        # A width is explained by a line that one of its curves has: the first.
        firsts = {(c.width, c.neurons): lines[describe(c.setting, told)] for c in reversed(curves)}
        style.legend(figure, colours, there, said, [] if args.weights else _notes(figure, args), firsts)
        above = args.title or (read_sweep(folder) or {}).get("title")
        if above:
            style.headline(figure, str(above), "--title" if args.title else "title")
        style.settle(figure)
        return figure, folder


def _in_words(curves: list[Curve], told: list[str]) -> dict[str, str]:
    """What the legend says of each setting, which is as it is typed but for the neurons of a stand-in's layers."""
    found = dict[str, str]()
    for curve in curves:
        setting = words = describe(curve.setting, told)
        N = {c.neurons for c in curves if describe(c.setting, told) == setting}
        for key in (k for k in LAYERS if k in curve.setting):
            count = curve.setting[key] or (curve.neurons if len(N) == 1 else "$N$")
            words = words.replace(describe({key: curve.setting[key]}), f"{LAYERS[key]}: {count} neurons")
        found[setting] = words
    # N itself may have been typed in the place of null.
    return found if len(set(found.values())) == len(found) else dict(zip(found, found, strict=True))


def _refuse_those_of_curves(args: argparse.Namespace) -> None:
    """Raises UserError where --weights is given with an option that it has no use for."""
    for name, default in OF_CURVES.items():
        if (value := getattr(args, name)) != default:
            given = " ".join(value if isinstance(value, list) else [] if value is True else [str(value)])
            raise UserError(f"{f'--{name} {given}'.strip()}: not with --weights, which draws no learning curves")


def _notes(figure: Figure, args: argparse.Namespace) -> list[dict[str, Any]]:
    """What the legend says beside widths and settings."""
    crossed = any(line.get_marker() == DIVERGED["marker"] for ax in figure.axes for line in ax.lines)
    told = ((SAMPLES, args.se), (PREDICTED, args.predict), (DIVERGED, crossed))
    return [note for note, there in told if there]


def _of_widths(curves: list[Curve], text: str) -> list[Curve]:
    """The curves of some widths.

    Raises:
        UserError: one of them is not here.
    """
    wanted = list[float]()
    for word in text.split(","):
        try:
            wanted.append(float(word))
        except ValueError:
            wanted.append(math.nan)
        if wanted[-1] not in [c.width for c in curves]:
            there = ", ".join(dict.fromkeys(c.label for c in curves))
            raise UserError(f"--widths {word.strip()}: no such width here; there are {there}")
    return [c for c in curves if c.width in wanted]


def _keys(curves: list[Curve]) -> list[str]:
    """The keys in which the curves differ, beside the width."""
    return list(dict.fromkeys(k for c in curves for k in c.setting))


def _varying(curves: list[Curve], asked: list[str], option: str) -> list[str]:
    """The keys that an option names, each whole or by its last word.

    Raises:
        UserError: one of them is the same for all curves.
    """
    keys, found = _keys(curves), list[str]()
    for key in asked:
        if key == "width":
            raise UserError(f"{option} width: is told by the colours; {option} takes another key")
        whole = {k: k.removesuffix(".name") for k in keys}
        same = [k for k in keys if key.removesuffix(".name") in (whole[k], whole[k].rpartition(".")[2])]
        if not same:
            varies = f"the keys that vary are {', '.join(keys)}" if keys else "nothing varies but the width"
            raise UserError(f"{option} {key}: does not vary here; {varies}")
        found += same
    return found


def _facets(curves: list[Curve], key: str | None) -> dict[str, list[Curve]]:
    """The curves of each row of panels, by what the row is called."""
    if key is None:
        return {"": curves}
    keys, rows = _varying(curves, [key], "--facet"), dict[str, list[Curve]]()
    for curve in curves:
        rows.setdefault(describe(curve.setting, keys), []).append(curve)
    return rows


def _figure(facets: dict[str, list[Curve]], looks: dict[int, dict[str, Any]], args: argparse.Namespace) -> Figure:
    """A row for each facet, and a panel for each metric."""
    metrics = choose_metrics([c for curves in facets.values() for c in curves], args.metrics)
    width, height = _size(args.size, SIZE)
    figure, axes = style.panels(len(facets), len(metrics), width=width, height=height)
    ylim, yscale = _of_metrics("--ylim", args.ylim, metrics), _of_metrics("--yscale", args.yscale, metrics)
    for row, (name, curves) in zip(axes, facets.items(), strict=True):
        for ax, metric in zip(row, metrics, strict=True):
            for curve in curves:
                _draw(ax, curve, metric, args, looks[id(curve)])
            ax.set_title(title(metric))
            if args.xscale == "log":
                style.log_scale(ax, "x")
            ax.set_xlabel("SGD step" if args.x == "step" else r"time $t = k\alpha$")
            if metric in yscale:
                if yscale[metric] not in ("log", "linear"):
                    raise UserError(f"--yscale {yscale[metric]}: log or linear")
                if yscale[metric] == "log":
                    style.log_scale(ax, "y")
            if args.xlim:
                low, high = _limits("--xlim", args.xlim, args.xscale)
                there = ax.dataLim
                if ax.has_data() and (low > there.x1 or high < there.x0):
                    raise UserError(f"--xlim {args.xlim}: the curves run from {there.x0:.4g} to {there.x1:.4g}")
                ax.set_xlim(low, high)
        style.row_label(row[0], name)
    figure.align_ylabels(axes[:, 0])
    every = [curve for curves in facets.values() for curve in curves]
    for metric, whole in zip(metrics, axes.T, strict=True):
        # Networks of one row may lack a layer that those of another have.
        column = [ax for ax in whole if ax.has_data()]
        for ax in set(whole) - set(column):
            ax.set_visible(False)
        if metric in ylim:
            for ax in column:
                ax.set_ylim(*_limits("--ylim", ylim[metric], yscale.get(metric, "linear")))
        else:
            _follow_what_is_finite(column, every, metric)
        for ax, curves in zip(whole, facets.values(), strict=True):
            for curve in curves:
                if curve.diverged() and metric in curve.metrics():
                    _mark_the_end(ax, curve, metric, args)
    return figure


def _draw(ax: Axes, curve: Curve, metric: str, args: argparse.Namespace, look: dict[str, Any]) -> None:
    if metric not in curve.metrics():
        return
    mean, spread = curve.drawn(metric)
    if args.xscale == "log":
        mean = mean[mean.index > 0]
    where = pd.Series(mean.index, mean.index) if args.x == "step" else curve.times().reindex(mean.index)
    # The limit lies above the finite curves, whatever the order of drawing.
    order = 10.0 if is_limit(curve) else 2.0
    ax.plot(where, mean, zorder=order, marker=".", markevery=style.alone(mean.notna().to_numpy()), **look)
    if spread is not None:
        spread = spread.reindex(mean.index)
        # An error is a part of the samples, and not below 0.
        lower = (mean - spread).clip(lower=0.0) if metric.endswith("_error") else mean - spread
        # Bands lie below all lines, whose colours they would change.
        ax.fill_between(where, lower, mean + spread, color=look["color"], alpha=0.18, linewidth=0, zorder=1.0)
    error = curve.standard_error(metric) if args.se else None
    if error is not None:
        for edge in (mean - 1.96 * error.reindex(mean.index), mean + 1.96 * error.reindex(mean.index)):
            ax.plot(where, edge, **{**SAMPLES, "label": None, "color": look["color"]}, zorder=order - 1)


def _bands(
    figure: Figure, facets: dict[str, list[Curve]], looks: dict[int, dict[str, Any]], args: argparse.Namespace
) -> None:
    """The band that a prediction has for each finite width of its setting, as far as linear theory holds.

    Errors have none: as long as outputs nearly tie they are steps, not smooth functions of the weights.

    Raises:
        UserError: there is no prediction, or none of the curves is of its setting.
    """
    every = [curve for curves in facets.values() for curve in curves]
    found, chosen = predicted.of_some(args.predict, [c for c in every if not is_limit(c)], predicted.SAMPLES)
    laws = {law.metric: law for law in found.laws if not law.metric.endswith("_error")}
    metrics = choose_metrics(every, args.metrics)
    for i, curves in enumerate(facets.values()):
        for ax, metric in zip(figure.axes[i * len(metrics) :], metrics, strict=False):
            low, high = ax.get_ylim()
            edges = [low, high]
            for curve in (c for c in curves if c in chosen and metric in laws):
                f = laws[metric].frame
                f = f[f["linear"].cummin() & ((f.index > 0) | (args.xscale == "linear"))]
                mean, half = (series.reindex(f.index) for series in laws[metric].band(curve.width))
                where = pd.Series(f.index, f.index) if args.x == "step" else f["t"]
                look = {**PREDICTED, "label": None, "color": looks[id(curve)]["color"]}
                for edge in (mean - half, mean + half):
                    ax.plot(where, edge, zorder=3, **look)
                    edges += [edge.min(), edge.max()]
            # Bands are seen whole, but for those of small networks, which would flatten all curves.
            if ax.get_yscale() == "linear" and not args.ylim:
                low, high = max(min(edges), low - (high - low) / 2), min(max(edges), high + (high - low) / 2)
            ax.set_ylim(low, high)


def _follow_what_is_finite(axes: Sequence[Axes], curves: list[Curve], metric: str) -> None:
    """One vertical range for the panels of a metric: that of the curves that did not diverge.

    Args:
        axes: the panels.
        curves: all that are drawn in them.
        metric: what they show.
    """
    low, high = (f(ax.get_ylim()[i] for ax in axes) for i, f in enumerate((min, max)))
    having = [c for c in curves if metric in c.metrics()]
    well = [c.table(metric).mean(axis=1) for c in having if not c.diverged()]
    if well and len(well) < len(having):
        low, high = _around(pd.concat(well), axes[0].get_yscale() == "log") or (low, high)
    if metric.endswith("_error"):
        high = min(high, 1.0)
    for ax in axes:
        ax.set_ylim(low, high)


def _around(values: pd.Series, logarithmic: bool) -> tuple[float, float] | None:
    """A range with some room around values; None on a logarithmic axis where none of them has a place."""
    values = values[values > 0] if logarithmic else values
    low, high = float(values.min()), float(values.max())
    if logarithmic:
        return (low / 1.1, high * 1.1) if len(values) else None
    margin = 0.05 * (high - low or abs(high) or 1.0)
    return low - margin, high + margin


def _mark_the_end(ax: Axes, curve: Curve, metric: str, args: argparse.Namespace) -> None:
    """A diverged curve ends in a cross, at its last point inside the panel, or above where it was never inside."""
    values = curve.drawn(metric)[0].dropna()
    values = values[values.index > 0] if args.xscale == "log" else values
    if values.empty:
        return
    top = ax.get_ylim()[1]
    inside = values[values <= top]
    step, height = (inside.index[-1], inside.iloc[-1]) if len(inside) else (values.index[0], top)
    look: dict[str, Any] = {**DIVERGED, "label": None, "zorder": 20, "clip_on": False}
    ax.plot([step if args.x == "step" else curve.times()[step]], [height], **look)


def _of_metrics(option: str, given: list[str] | None, metrics: list[str]) -> dict[str, str]:
    """What METRIC=VALUE says for one metric, and VALUE alone for all of them.

    Raises:
        UserError: no such panel.
    """
    found: dict[str, str] = {}
    for word in given or []:
        name, equals, value = word.rpartition("=")
        if equals and name not in metrics:
            raise UserError(f"{option} {word}: no such panel; there are {', '.join(metrics)}")
        found |= dict.fromkeys([name] if equals else metrics, value)
    return found


def _size(text: str | None, default: tuple[float, float]) -> tuple[float, float]:
    """Inches of a panel.

    Raises:
        UserError: they are none, or too many.
    """
    if text is None:
        return default
    try:
        width, height = (float(v) for v in text.split(","))
    except ValueError:
        width = height = 0.0
    if not (0 < width <= LARGEST and 0 < height <= LARGEST):
        raise UserError(f"--size {text}: inches, WIDTH,HEIGHT, both > 0 and at most {LARGEST:g}")
    return width, height


def _limits(option: str, text: str, scale: str) -> tuple[float, float]:
    """The range of an axis.

    Raises:
        UserError: it is none, or not one of a logarithmic axis.
    """
    try:
        low, high = (float(v) for v in text.split(","))
    except ValueError:
        low = high = 0.0
    if not -math.inf < low < high < math.inf:
        raise UserError(f"{option} {text}: a range is two numbers, the smaller first, as in 0,1")
    if scale == "log" and low <= 0:
        raise UserError(f"{option} {text}: a logarithmic axis begins above 0; {option[:3]}scale linear takes it")
    return low, high
