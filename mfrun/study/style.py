"""How every figure of mfrun looks: one colour scale for n, black and dashed for the limit."""

from __future__ import annotations

import functools
import io
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, NullLocator

from mfrun.errors import UserError
from mfrun.shell.options import FORMATS
from mfrun.study import widths

RC: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.92",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "legend.frameon": True,
    "legend.framealpha": 0.8,
    "legend.edgecolor": "none",
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}
# Decorates what draws: mfrun's looks within it, and whatever they were before after it.
styled = mpl.rc_context(RC)  # type: ignore[arg-type]
# Of the settings that a picture tells apart: the first solid, the second dotted, as in the paper.
LINES: list[Any] = ["-", (0, (1, 1)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1))]
LIMIT: dict[str, Any] = {"color": "black", "linestyle": (0, (5, 2)), "linewidth": 1.6}
# Of a .png: more would take gigabytes, and matplotlib takes fewer than 2^16 along a side.
PIXELS, SIDE = 2**28, 2**16


@contextmanager
def looks(file: str | None = None, font_size: float | None = None) -> Iterator[None]:
    """mfrun's looks, and over them those of a file and of a font size.

    Raises:
        UserError: the file is no matplotlib style.
    """
    with mpl.rc_context(RC):  # type: ignore[arg-type]
        if font_size is not None:
            mpl.rcParams["font.size"] = font_size
            mpl.rcParams["axes.titlesize"], mpl.rcParams["legend.fontsize"] = font_size + 1, font_size - 1
        if file is not None:
            try:
                style.use(file)
            except OSError as error:
                raise UserError(f"--style-file {file}: no style of matplotlib, and no such file") from error
        yield


class Picture(Figure):
    """A figure that is no pyplot's, so that a notebook's own pictures and settings stay what they are."""

    def _repr_png_(self) -> bytes:
        """What a notebook shows of it."""
        png = io.BytesIO()
        with mpl.rc_context(RC):  # type: ignore[arg-type]
            self.savefig(png, format="png")
        return png.getvalue()


def panels(rows: int, columns: int, *, width: float = 2.9, height: float = 2.5) -> tuple[Figure, np.ndarray]:
    """A grid of axes; sizes are inches a panel."""
    figure = Picture(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        # A power of ten above the axis of y lies over its labels, not over the title.
        ax.yaxis.get_offset_text().set_horizontalalignment("right")
    return figure, axes


def colours(widths: list[float]) -> dict[float, Any]:
    """Light for small n, dark for large n, evenly over the widths that there are."""
    finite = sorted({w for w in widths if not math.isinf(w)})
    scale = mpl.colormaps["plasma_r"]
    places = np.linspace(0.18, 0.95, max(len(finite), 2))
    return {w: scale(p) for w, p in zip(finite, places[len(places) - len(finite) :], strict=True)} | {math.inf: "black"}


# What stands for a width whose real networks are drawn, too.
BESIDE = {"linestyle": (0, (1, 1.2)), "linewidth": 1.1}


def look(width: float, colours: dict[float, Any], line: Any, dotted: bool = False) -> dict[str, Any]:
    """How the line of one width is drawn.

    Args:
        width: n.
        colours: of the widths.
        line: the style of its setting, one of ``LINES``.
        dotted: real networks of this width are drawn, too, and this is what stands for them.
    """
    if not math.isinf(width):
        # A setting's own line stays what it is, and gets thinner.
        own = {"linestyle": line} if line != LINES[0] else {}
        return {"color": colours[width], "linestyle": line} | (BESIDE | own if dotted else {})
    return LIMIT | ({"linestyle": line} if line != LINES[0] else {})


def named(width: float, neurons: int | None = None) -> str:
    """A width as a legend names it, with the neurons that stand for it where they do."""
    if math.isinf(width):
        return r"$n = \infty$"
    return f"$n = {_width_label(width).strip('$')}$" + (f" ($N = {neurons}$)" if neurons else "")


def legend(
    figure: Figure,
    colours: dict[float, Any],
    there: Iterable[widths.Width],
    settings: dict[str, Any],
    notes: Sequence[dict[str, Any]] = (),
    lines: Mapping[widths.Width, Any] | None = None,
) -> None:
    """One legend beside all panels: a line for each width, and for each setting where there are several.

    Args:
        figure: the picture.
        colours: of the widths.
        there: the widths that are drawn, and the neurons that stand for them, where they do.
        settings: the line of each, by what it is in words.
        notes: further lines, as keys of Line2D.
        lines: the style of each width, where it is not that of the first setting.
    """
    handles = []
    drawn = sorted(set(there), key=lambda one: (one[0], one[1] or 0))
    dotted = widths.beside(drawn)
    for width, neurons in drawn:
        line = look(width, colours, (lines or {}).get((width, neurons), LINES[0]), (width, neurons) in dotted)
        handles.append(Line2D([], [], label=named(width, neurons), **line))
    limit = any(math.isinf(width) for width, _ in drawn)
    for words, line in settings.items() if len(settings) > 1 else ():
        also = "\n($n = \\infty$: dashed)" if limit and line == LINES[0] else ""
        handles.append(Line2D([], [], color="0.4", linestyle=line, label=words + also))
    handles += [Line2D([], [], **note) for note in notes]
    beside(figure, handles)


def beside(figure: Figure, handles: Sequence[Artist], heading: str | None = None) -> None:
    """A legend to the right of all panels, which become as tall as it is.

    Args:
        figure: the picture.
        handles: what the legend explains, with labels of their own.
        heading: above them.
    """
    figure.legend(handles=list(handles), title=heading, loc="outside right center")
    _as_tall_as_needed(figure)


def row_label(axes: Axes, words: str, **look: Any) -> None:
    """What a row of panels is, along its height: broken at commas, and smaller where a part alone is longer than that.

    Args:
        axes: the first of the row.
        words: with a comma between parts.
        look: of the text.
    """
    spec = axes.get_subplotspec()
    assert spec is not None
    # What is above and below a panel takes about three tenths of a row.
    room = 0.7 * axes.figure.bbox.height / spec.get_gridspec().nrows
    first, *rest = words.split(", ")
    label, lines = axes.set_ylabel(first, **look), [first]
    for part in rest:
        label.set_text(f"{lines[-1]}, {part}")
        if label.get_window_extent().height <= room:
            lines[-1] = label.get_text()
        else:
            lines[-1] += ","
            lines.append(part)
    label.set_text("\n".join(lines))
    label.set_fontsize(float(label.get_fontsize()) * room / max(room, label.get_window_extent().height))


def headline(figure: Figure, text: str, option: str) -> None:
    """A title above all panels, in as many lines as the picture's width makes of it.

    Args:
        figure: the picture, whose legend is there.
        text: the title.
        option: that names it.

    Raises:
        UserError: matplotlib cannot read its mathematics.
    """
    # Lines are broken at blanks: a formula, in which tabs mean as little, stays in one.
    whole = re.sub(r"(?<!\\)\$.*?(?<!\\)\$", lambda m: m[0].replace(" ", "\t"), text) if is_math_text(text) else text
    try:
        _as_tall_as_needed(figure, figure.suptitle(whole, wrap=True))
    except ValueError as error:
        raise UserError(f"{option} {text}: matplotlib cannot read its mathematics; \\$ is a dollar") from error


def _as_tall_as_needed(figure: Figure, above: Text | None = None) -> None:
    """Grow a picture whose legend and title would be cut off; panels alone fit whatever height they get."""
    # The legend stands at half of the height, so that the title takes its room below it as well.
    needed = sum(one.get_window_extent().height for one in figure.legends)
    needed += 2 * above.get_window_extent().height if above else 0.0
    # Beside constrained layout's own margins.
    inches = needed / figure.dpi + 0.15
    if inches > figure.get_figheight():
        figure.set_figheight(inches)


def settle(figure: Figure) -> None:
    """Lay a picture out.

    Raises:
        UserError: labels and legend leave no room for the panels.
    """
    engine = figure.get_layout_engine()
    assert engine is not None
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "constrained_layout not applied")
        try:
            engine.execute(figure)
        except UserWarning as error:
            why = "labels and legend leave no room for the panels"
            raise UserError(f"{why}; a larger --size, or a smaller --font-size, does") from error


def alone(seen: np.ndarray) -> list[int]:
    """The points of a curve that no line joins to another, which need a marker to be seen.

    Args:
        seen: whether there is one, for each place along the curve.
    """
    padded = np.r_[False, seen, False]
    return list(np.flatnonzero(padded[1:-1] & ~padded[:-2] & ~padded[2:]))


def log_scale(axes: Axes, which: str) -> None:
    """A logarithmic axis with a tick at each decade, and at 2 and 5 where fewer than 1.5 decades of x are seen, or 2 of
    y."""
    seen = 1.5 if which == "x" else 2.0
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    # A function that a pickled figure can name.
    axis.set_minor_formatter(FuncFormatter(functools.partial(_between_decades, axis, which, seen)))


def _between_decades(axis: Axis, which: str, seen: float, value: float, _: Any) -> str:
    """The label of a tick at 2 or 5 times a power of ten on a logarithmic axis; empty where there is none."""
    low, high = sorted(axis.get_view_interval())
    exponent = math.floor(math.log10(value) + 1e-9)
    digit = value / 10**exponent
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    if sum(low <= d * 10.0**e <= high for e in decades for d in (1, 2, 5)) < 2:
        # No two of these ticks are seen: here matplotlib has evenly spaced ones.
        return f"{value:.{_digits(axis.get_minorticklocs())}g}"
    # Along x there is room for a 2 beside a 1 on a part of a decade only.
    marks = (2, 5) if which == "y" or high < low * 9.9 else (5,)
    marked = any(math.isclose(digit, d, rel_tol=1e-6) for d in marks)
    return rf"${digit:.0f}\cdot10^{{{exponent}}}$" if marked and high < low * 10**seen else ""


def _digits(ticks: np.ndarray) -> int:
    """How many significant digits tell each of some ticks from its neighbours, three at least."""
    step = min(np.diff(np.unique(ticks)), default=math.inf)
    enough = (d for d in range(3, 16) if all(abs(float(f"{tick:.{d}g}") - tick) < step / 100 for tick in ticks))
    return next(enough, 16)


def log_ticks(axes: Axes, values: list[float]) -> None:
    """A logarithmic n axis whose ticks are the widths themselves, with labels where there is room for them.

    Over more than three decades they are powers of ten, as many as there is room for.
    """
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    values = sorted(values)
    if values[-1] > 1e3 * values[0]:
        low, high = math.ceil(math.log10(values[0]) - 1e-9), math.floor(math.log10(values[-1]) + 1e-9)
        powers = sorted(range(high, low - 1, -math.ceil((high - low) / 6)))
        axes.set_xticks([10.0**e for e in powers], [f"$10^{{{e}}}$" for e in powers])
        return
    labels = [_width_label(v) for v in values]
    # A character takes up to a twenty-eighth of the axis of a small panel. The largest width is always named, and the
    # smallest before those between.
    halves = [len(label.strip("$").replace("^{", "").replace("}", "")) / 56 for label in labels]
    places = np.log(values) / max(math.log(values[-1] / values[0]), 1e-9)
    taken, free = places[0] + halves[0] + 0.02, places[-1] + 1.0
    for i in reversed(range(len(values))):
        between = 0 < i < len(values) - 1
        if places[i] + halves[i] > free or (between and places[i] - halves[i] < taken):
            labels[i] = ""
        else:
            free = places[i] - halves[i] - 0.02
    axes.set_xticks(values, labels)


def _width_label(n: float) -> str:
    """A width as an axis shows it: powers of ten from 10^4 on."""
    exponent = round(math.log10(n))
    return rf"$10^{{{exponent}}}$" if exponent >= 4 and n == 10.0**exponent else f"{n:g}"


@styled
def save(figure: Figure, file: Path, dpi: float | None = None) -> None:
    """Write the picture.

    Raises:
        UserError: a format that is not offered, more pixels than can be drawn, or a folder that cannot be written.
    """
    if file.suffix.lstrip(".").lower() not in FORMATS:
        raise UserError(f"--out {file}: the format is told by the ending, one of {', '.join(FORMATS)}")
    dpi = RC["savefig.dpi"] if dpi is None else dpi
    width, height = (round(inches * dpi) for inches in figure.get_size_inches())
    if file.suffix.lower() == ".png" and (max(width, height) >= SIDE or width * height > PIXELS):
        raise UserError(f"--dpi {dpi:g}: {width} x {height} pixels are too many; fewer, or a smaller --size")
    try:
        figure.savefig(file, dpi=dpi)
    except OSError as error:
        raise UserError(f"--out {file}: cannot be written ({error.strerror})") from error
