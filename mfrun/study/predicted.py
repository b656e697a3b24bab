"""Text and figure of a prediction (:mod:`mfrun.study.prediction`), and real networks laid beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mfrun.config import ROOTS, flatten, stood_label, width_label
from mfrun.errors import UserError, typed
from mfrun.files import plain
from mfrun.study import style
from mfrun.study.convergence import Gap, Study
from mfrun.study.curves import Curve, describe, title
from mfrun.study.prediction import Growth, Law, Prediction, horizon, read


def text(
    found: Prediction,
    laws: list[Law],
    widths: list[float],
    accuracy: tuple[float, bool],
    networks: int,
    tolerance: float,
) -> str:
    """What the terminal shows.

    Args:
        found: the prediction.
        laws: of the metrics to show.
        widths: to show them for.
        accuracy: of the width that is asked for, and whether it is a part of the metric's value.
        networks: K of an ensemble.
        tolerance: of the horizon, as a part of the range that the limit runs through.
    """
    lines = [
        f"from {found.pairs} mirrored pairs in {found.groups} groups; mean gap c/n, deviation over starts s/sqrt(n)"
    ]
    if found.lost is not None:
        lines.append(f"diverged: a limit has no loss to speak of at step {found.lost}; nothing is said from there on")
    for law in laws:
        f = law.frame
        lines.append(f"\n{law.metric}")
        lines.append(
            f"{'step':>8} {'limit':>10} {'c':>10} {'+-':>8} {'s':>9} {'+-':>8} {'q':>9}  95 % of networks at n ="
        )
        lines[-1] += "".join(f" {width_label(n):>16}" for n in widths)
        bands = [law.band(n) for n in widths]
        for k in _steps(f.index.tolist()):
            row = f.loc[k]
            flag = " " if row["linear"] else "!"
            line = f"{k:>8} {row['limit']:>10.4g} {row['c']:>10.3g} {row['c_se']:>8.2g} {row['s']:>9.3g}"
            line += f" {row['s_se']:>8.2g} {row['q']:>9.3g}{flag} {'':>22}"
            lines.append(line + "".join(f" {_between(law.metric, mean[k], half[k]):>16}" for mean, half in bands))
        lines += _needed(law, accuracy, networks)
        lines += _left(found, law, widths, tolerance)
        if not f["linear"].all():
            ends = f["t"][~f["linear"]].iloc[0]
            lines.append(
                f"  ! perturbations twice as large give another law from t = {ends:.4g} on: not linear any more"
            )
    for l, growth in found.growth.items():
        sigma = found.layers[l]
        first, last = (f"{sigma.iloc[i]:.3g} / sqrt(n)" for i in (0, -1))
        grown = f"  layer {l}: neurons are {first} apart at the start, {last} at the end"
        lines.append(("\n" if l == min(found.growth) else "") + grown + _rate(growth))
    return "\n".join(lines)


def _between(metric: str, mean: float, half: float) -> str:
    low, high = (_possible(metric, edge) for edge in (mean - half, mean + half))
    return f"{low:.4f}..{high:.4f}"


def _possible(metric: str, value: Any) -> Any:
    """What linear theory says, as far as it can be: an error is a part of the samples."""
    return np.clip(value, 0.0, 1.0) if metric.endswith("_error") else value


def _steps(evaluated: list[int]) -> list[int]:
    """The decades, and the last."""
    decades = {0, *(10**e for e in range(9))}
    return [k for k in evaluated if k in decades or k == evaluated[-1]]


def _needed(law: Law, accuracy: tuple[float, bool], networks: int) -> list[str]:
    last = int(law.frame.index[-1])
    value, part = accuracy
    wanted = value * abs(law.frame["limit"].iloc[-1]) if part else value
    if not wanted > 0:
        return []
    said = f"{100 * value:g} % ({wanted:.2g})" if part else f"{value:g}"
    one, many = (max(1, math.ceil(law.width_for(wanted, last, k))) for k in (1, networks))
    if one == 1 and law.frame["s"].iloc[-1] == 0:
        return []
    line = f"  to be within {said} of the limit at step {last} (root mean square): n = {_round(one)}"
    ended = "" if law.frame["linear"].iloc[-1] else " (! not linear there)"
    return [f"{line}; {networks} networks whose outputs are averaged: n = {_round(many)} each{ended}"]


def _round(n: int) -> str:
    return width_label(float(f"{n:.2e}")) if n > 1000 else str(n)


def _left(found: Prediction, law: Law, widths: list[float], tolerance: float) -> list[str]:
    """Horizons of the widths that leave the limit."""
    values = law.frame["limit"]
    size = tolerance * float(values.max() - values.min())
    reached = [(n, horizon(law, n, size, found.fastest)) for n in widths]
    named = [f"n = {width_label(n)}: {h[0]:.4g}{'*' if h[1] else ''}" for n, h in reached if h]
    if not named or size == 0:
        return []
    line = f"  horizon t (gap {size:.2g}): {', '.join(named)}"
    notes = ["; * continued by exp(2 lambda t)"] if any(h and h[1] for _, h in reached) else []
    # Perturbations twice as large as those of predict.width were tried at most.
    tried = law.eps**-2 / 4
    if any(h and n < tried for n, h in reached):
        below = width_label(round(tried))
        notes.append(f"; below n = {below} for larger perturbations than were tried, as a rule too early")
    return [line + "".join(notes)]


def _rate(growth: Growth) -> str:
    if math.isnan(growth.rate):
        return "; no exponential growth"
    said = f"; like exp(lambda t), lambda = {growth.rate:.3g} [{growth.low:.3g}, {growth.high:.3g}]"
    said += f" over t = {growth.begin:.3g} to {growth.end:.3g}"
    return f"{said}: horizons grow by {1 / (2 * growth.rate):.3g} ln n"


@style.styled
def figure(found: Prediction, laws: list[Law], widths: list[float]) -> Figure:
    """Four panels for each metric, curves with bands, the same less the limit, c and s against t, and one for the
    distance of the layers' neurons; of several metrics, each has a row."""
    panels = 4 * len(laws) + bool(found.growth)
    columns = {4: 2, 5: 3}.get(panels, 4)
    picture, axes = style.panels(-(-panels // columns), columns, width=3.1, height=2.5)
    colours = style.colours([*widths, math.inf])
    for law, four in zip(laws, axes.flat[: 4 * len(laws)].reshape(-1, 4), strict=True):
        _curves(four[0], law, widths, colours)
        _gaps(four[1], law, widths, colours)
        _coefficient(four[2], law, "c", "mean gap: $c$ in $c\\,/\\,n$")
        _coefficient(four[3], law, "s", "deviation: $s$ in $s\\,/\\sqrt{n}$")
    if found.growth:
        _layers(axes.flat[panels - 1], found)
    for ax in axes.flat[panels:]:
        ax.set_axis_off()
    for ax in axes.flat[:panels]:
        ax.set_xlabel(r"time $t = k\alpha$")
    style.legend(picture, colours, [(n, None) for n in (*widths, math.inf)], {})
    return picture


def _curves(ax: Axes, law: Law, widths: list[float], colours: dict[float, object]) -> None:
    f = _panel(ax, law, title(law.metric))
    if f.empty:  # Without a step there is no time to draw it against.
        return
    for n in sorted(widths):
        _band(ax, law, n, f, 0.0, style.look(n, colours, "-"))
    ax.plot(f["t"], f["limit"], **style.look(math.inf, colours, "-"))
    # Where linear theory has ended bands know no bounds.
    low, high = f["limit"].min(), f["limit"].max()
    if high > low:
        ax.set_ylim(low - 0.25 * (high - low), high + 0.25 * (high - low))


def _gaps(ax: Axes, law: Law, widths: list[float], colours: dict[float, object]) -> None:
    every = _panel(ax, law, f"{title(law.metric)}, less the limit's")
    ax.plot(every["t"], 0 * every["t"], **style.look(math.inf, colours, "-"))
    f = every[every["linear"]]
    if len(f) < len(every):
        until = f"up to t = {f['t'].iloc[-1]:.3g}" if len(f) else "at no time"
        ax.text(0.5, 0.9, f"linear {until}", transform=ax.transAxes, ha="center", fontsize=8)
    for n in sorted(widths):
        _band(ax, law, n, f, f["limit"], style.look(n, colours, "-"))


def _panel(ax: Axes, law: Law, words: str) -> pd.DataFrame:
    """The rows of a law that a panel shows, which is ready for them."""
    style.log_scale(ax, "x")
    ax.set_title(words)
    return law.frame[law.frame["t"] > 0]


def _band(ax: Axes, law: Law, n: float, f: pd.DataFrame, less: pd.Series | float, look: dict[str, Any]) -> None:
    """The mean of networks of width n, less something, and the band that 95 % of them lie in, at the rows of f."""
    mean, half = (series.reindex(f.index) for series in law.band(n))
    low, middle, high = (_possible(law.metric, values) - less for values in (mean - half, mean, mean + half))
    ax.plot(f["t"], middle, **look)
    ax.fill_between(f["t"], low, high, color=look["color"], alpha=0.2, linewidth=0)


def _coefficient(ax: Axes, law: Law, name: str, words: str) -> None:
    f = _panel(ax, law, words)
    ax.set_ylabel(title(law.metric))
    linear = f["linear"].to_numpy()
    value, error = f[name].to_numpy(), 1.96 * f[f"{name}_se"].to_numpy()
    ax.fill_between(f["t"], value - error, value + error, color="#2a5d9f", alpha=0.2, linewidth=0)
    ax.plot(f["t"], np.where(linear, value, np.nan), color="#2a5d9f")
    if not linear.all():
        ax.plot(f["t"], value, color="#2a5d9f", linestyle=":", linewidth=1.0)
        size = np.abs(value[linear]).max(initial=np.abs(value[0]))
        ax.set_ylim(*((-1.5 * size, 1.5 * size) if name == "c" else (0, 1.5 * size)))


def _layers(ax: Axes, found: Prediction) -> None:
    for l, values in found.layers.items():
        later = values[values.index > 0]
        ax.plot(later.index, later, label=f"layer {l}")
    style.log_scale(ax, "y")
    ax.set_title(r"distance of neurons: $\sigma_l$ in $\sigma_l\,/\sqrt{n}$")
    ax.legend(fontsize=8)


# Keys in which a prediction may differ from the networks that are laid beside it.
FREE = ("width", "steps", "replicates", "perturbed", "neurons", "keep_checkpoints", *ROOTS)
FREE_GROUPS = ("predict", "particles", "stand_in", "seed", "evaluation.points_per_decade", "evaluation.kernels")
# Keys of the samples that a curve, and not only its gap to the limit, is about.
SAMPLES = ("seed.data", "seed.eval")


def of(folder: str, curves: list[Curve]) -> Prediction:
    """The prediction of a folder.

    Raises:
        UserError: there is none, or it is of another setting than the curves'.
    """
    found = read(Path(folder))
    for curve in curves:
        refuse_another(found, flatten(plain(curve.sources[0].run.config())), folder)
    return found


def of_some(folder: str, curves: list[Curve], and_these: Sequence[str] = ()) -> tuple[Prediction, list[Curve]]:
    """The prediction of a folder, and those of some curves that it is about.

    Args:
        folder: of the prediction.
        curves: to choose from.
        and_these: keys that are to be its own, too, though gaps do not depend on them.

    Raises:
        UserError: there is none, or it is about none of them.
    """
    found, chosen, why = read(Path(folder)), list[Curve](), UserError(f"--predict {folder}: no finite width is drawn")
    for curve in curves:
        try:
            for source in curve.sources:
                refuse_another(found, flatten(plain(source.run.config())), folder, and_these)
            chosen.append(curve)
        except UserError as error:
            why = error
    if not chosen:
        raise why
    return found, chosen


def refuse_another(found: Prediction, keys: dict[str, object], folder: str, and_these: Sequence[str] = ()) -> None:
    """Raises UserError where a prediction is not of the setting of some networks.

    Args:
        found: the prediction.
        keys: of the networks, dotted.
        folder: of the prediction.
        and_these: keys that are to be its own, too, though gaps do not depend on them.
    """
    for key in sorted({*found.config, *keys}):
        free = key not in and_these and (key in FREE or key.startswith(FREE_GROUPS))
        if free or found.config.get(key) == keys.get(key):
            continue
        why = f"is of {key}={typed(found.config.get(key))}, and these networks of {key}={typed(keys.get(key))}"
        raise UserError(f"--predict {folder}: {why}")


def beside(s: Study, found: Prediction, steps: list[int]) -> pd.DataFrame:
    """Measured gaps and deviations beside predicted ones, with standard errors.

    Args:
        s: gaps to the limit.
        found: the prediction.
        steps: to compare at; the last one of both is added.

    Returns:
        A row for each width and step: ``width``, ``neurons`` that stand for it, ``step``, ``gap``, ``predicted_gap``,
        ``deviation``, ``predicted_deviation``, each with its ``_se``, ``linear``, and ``agrees``: whether both pairs
        differ by less than two standard errors of the difference.
    """
    law = next((law for law in found.laws if law.metric == s.metric), None)
    if law is None or s.reference != "inf":
        return pd.DataFrame()
    rows = []
    for g in (g for g in s.gaps if g.replicates > 1):
        both = g.differences.index.intersection(law.frame.index)
        rows += [_row(g, law, k) for k in both if k in steps or k == both[-1]]
    return pd.DataFrame(rows)


def _row(g: Gap, law: Law, k: int) -> dict[str, float | bool | None]:
    n, S, row = g.width, g.replicates, law.frame.to_dict("index")[k]
    values = g.differences.loc[[k]].to_numpy()
    deviation, bar = float(values.std(ddof=1)), g.reference_bar.to_dict()[k]
    found = {
        "gap": (float(values.mean()), math.hypot(deviation / math.sqrt(S), bar / 2)),
        "predicted_gap": (row["c"] / n, row["c_se"] / n),
        "deviation": (deviation, deviation / math.sqrt(2 * (S - 1))),
        "predicted_deviation": (law.deviation(n).to_dict()[k], law.deviation_error(n).to_dict()[k]),
    }
    agrees = all(
        abs(found[name][0] - found[f"predicted_{name}"][0])
        <= 2 * math.hypot(found[name][1], found[f"predicted_{name}"][1])
        for name in ("gap", "deviation")
    )
    who: dict[str, float | bool | None] = {"width": n, "neurons": g.neurons, "step": k}
    columns = {name: value for name, (value, _) in found.items()} | {f"{name}_se": e for name, (_, e) in found.items()}
    return {**who, **columns, "linear": bool(row["linear"]), "agrees": agrees}


def beside_text(s: Study, found: Prediction, steps: list[int], folder: str) -> str:
    """The same for the terminal, with the horizons."""
    table = beside(s, found, steps)
    if table.empty:
        return f"\n{s.metric}: nothing to lay beside the prediction; it takes a limit here and replicates=2 or more"
    where = f" [{describe(s.setting)}]" if s.setting else ""
    lines = [f"\n{s.metric}{where} beside the prediction of {folder} ({found.pairs} mirrored pairs)"]
    wide = max(8, *(len(stood_label(g.width, g.neurons)) for g in s.gaps))
    heads = ("mean gap", "predicted", "deviation", "predicted")
    lines.append(f"{'n':>{wide}} {'k':>7}" + "".join(f" {head:>20}" for head in heads) + "  agree")
    for row in table.to_dict("records"):
        line = f"{stood_label(row['width'], row['neurons']):>{wide}} {row['step']:>7}"
        for name in ("gap", "predicted_gap", "deviation", "predicted_deviation"):
            line += f" {row[name]:>10.3g} +-{row[f'{name}_se']:<7.1g}"
        lines.append(f"{line}  {'yes' if row['agrees'] else 'no'}{'' if row['linear'] else ' (not linear)'}")
    law = next(law for law in found.laws if law.metric == s.metric)
    for g in s.gaps:
        here, said = g.horizon(s.tolerance), horizon(law, g.width, s.tolerance, found.fastest)
        if here or said:
            words = "never" if said is None else f"{said[1] * 'about '}{said[0]:.4g}"
            measured = f"{here[1]:.4g}" if here else "never"
            lines.append(f"  horizon t of n = {stood_label(g.width, g.neurons)}: {measured}, predicted {words}")
    return "\n".join(lines)
