"""How far the kernels of finite networks' hidden layers are from the limit's, for ``mfrun compare``.

The gap of a kernel is the Frobenius norm of its difference to the limit's over that of the limit's. Of one network it
is the root mean square over the starts; of the mean, of the kernel averaged over them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mfrun.config import stood_label
from mfrun.study import widths
from mfrun.study.curves import Curve, Source, describe, is_limit
from mfrun.study.power_law import power_law

NAMES = {"features": "E[a a']", "gradients": "E[D D']"}


@dataclass(frozen=True)
class Comparison:
    """Of one setting at one step.

    Attributes:
        setting: what the runs differ in, beside the width.
        step: of the evaluation, the last that all have.
        table: ``kernel``, ``layer``, ``width``, ``neurons`` that stand for it, ``networks``, ``gap_of_one``,
            ``gap_of_mean`` and ``bar``, the limit's own error, a row each.
    """

    setting: dict[str, object]
    step: int
    table: pd.DataFrame


def compare(curves: list[Curve], setting: dict[str, object]) -> Comparison | None:
    """Hold all widths to the limit, each network to the limit on its own data where there is one.

    Networks whose kernels are not of the limit's inputs, or that have none, are left out.

    Returns:
        None where no limit, or no other width, has kernels of a common step.
    """
    having = [c for c in curves if any(s.run.kernel_steps() for s in c.sources)]
    found = next((c for c in having if is_limit(c)), None)
    if found is None:
        return None

    def inputs(source: Source) -> tuple[int, int]:
        return source.evaluated, int(source.run.config().evaluation.kernels)

    chosen = next(inputs(s) for s in found.sources if s.run.kernel_steps())

    def alike(curve: Curve) -> Curve:
        return replace(curve, sources=[s for s in curve.sources if s.run.kernel_steps() and inputs(s) == chosen])

    limit, finite = alike(found), [one for c in having if not is_limit(c) and (one := alike(c)).sources]
    common = set.intersection(*(set(s.run.kernel_steps()) for c in (limit, *finite) for s in c.sources))
    if not finite or not common:
        return None
    step = max(common)
    truth, rows = _by_label(limit, step), []
    for curve in finite:
        networks = _by_label(curve, step)
        for name in NAMES:
            rows += _rows(curve, name, networks, truth)
    return Comparison(setting, step, pd.DataFrame(rows)) if rows else None


def _by_label(curve: Curve, step: int) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """The arrays (L, P, P) of every network, by its data and init; what runs repeat of one another is there once."""
    found: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for source in curve.sources:
        arrays = source.run.kernels(step)
        for r, label in enumerate(source.labels()):
            found.setdefault(label, {name: array[r].astype(float) for name, array in arrays.items()})
    return found


def _rows(
    curve: Curve,
    name: str,
    networks: dict[tuple[str, str], dict[str, np.ndarray]],
    truth: dict[tuple[str, str], dict[str, np.ndarray]],
) -> list[dict[str, object]]:
    """The table's rows of one width and kernel; none where it has other layers or samples than the limit."""
    orders = {data for data, _ in truth}

    def limit(data: str, of: str) -> np.ndarray:
        # Without a limit on these data it is held to the average of those that there are.
        return np.stack([arrays[of] for (one, _), arrays in truth.items() if one == data or data not in orders])

    values = [arrays[name] for arrays in networks.values()]
    limits = [limit(data, name) for data, _ in networks]
    if values[0].shape != limits[0].shape[1:]:
        return []
    size = np.linalg.norm(np.mean([one.mean(0) for one in limits], 0), axis=(-2, -1))
    apart = np.stack([value - one.mean(0) for value, one in zip(values, limits, strict=True)])
    of_one = np.sqrt((np.linalg.norm(apart, axis=(-2, -1)) ** 2).mean(0)) / size
    of_mean = np.linalg.norm(apart.mean(0), axis=(-2, -1)) / size
    bars = [limit(data, f"{name}_bar") for data, _ in networks]
    own = np.sqrt(np.mean([(bar**2).sum((0, 2, 3)) / len(bar) ** 2 for bar in bars], 0)) / size
    every = {"kernel": name, "width": curve.width, "neurons": curve.neurons, "networks": len(values)}
    return [
        {**every, "layer": l + 1, "gap_of_one": of_one[l], "gap_of_mean": of_mean[l], "bar": own[l]}
        for l in range(len(size))
    ]


def text(found: Comparison) -> str:
    """For the terminal."""
    where = f" [{describe(found.setting)}]" if found.setting else ""
    drawn = zip(found.table["width"], found.table["neurons"], strict=True)
    columns = list(dict.fromkeys((n, None if pd.isna(neurons) else int(neurons)) for n, neurons in drawn))
    names = [stood_label(n, neurons) for n, neurons in columns]
    wide = max(10, *(len(name) + 4 for name in names))
    lines = [
        f"\nkernels of the hidden layers{where} at step {found.step}: gap to the limit's, relative, of one network"
    ]
    heads = "".join(f"{f'n={name}':>{wide}}" for name in names)
    lines.append(f"{'':<20}{heads}{'bar':>10}  rate r in gap ~ n^-r")
    kept = widths.once(columns)
    for (name, layer), rows in found.table.groupby(["kernel", "layer"], sort=False):
        cells = "".join(f"{gap:>{wide}.2g}" for gap in rows["gap_of_one"])
        fitted = [(one[0], gap) for one, gap in zip(columns, rows["gap_of_one"], strict=True) if one in kept]
        positive = all(gap > 0 for _, gap in fitted)
        law = power_law([n for n, _ in fitted], [gap for _, gap in fitted]) if positive else power_law([], [])
        interval = "" if math.isnan(law.low) else f" [{-law.high:.2f}, {-law.low:.2f}]"
        rate = "-" if math.isnan(law.exponent) else f"{-law.exponent:.2f}{interval}"
        lines.append(f"  {NAMES[str(name)]}, layer {layer:<3}{cells}{float(rows['bar'].iloc[0]):>10.2g}  {rate}")
    return "\n".join(lines)
