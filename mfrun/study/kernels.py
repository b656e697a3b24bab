"""How far the kernels of finite networks' hidden layers are from the limit's, for ``mfrun compare``.

The gap of a kernel is the Frobenius norm of its difference to the limit's over that of the limit's. Of one network it
is the root mean square over the starts; of the mean, of the kernel averaged over them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mfrun.config import width_label
from mfrun.study.curves import Curve, describe, is_limit
from mfrun.study.power_law import power_law

NAMES = {"features": "E[a a']", "gradients": "E[D D']"}


@dataclass(frozen=True)
class Comparison:
    """Of one setting at one step.

    Attributes:
        setting: what the runs differ in, beside the width.
        step: of the evaluation, the last that all have.
        table: ``kernel``, ``layer``, ``width``, ``gap_of_one``, ``gap_of_mean`` and ``bar``, the limit's own error, a
            row each.
    """

    setting: dict[str, object]
    step: int
    table: pd.DataFrame


def compare(curves: list[Curve], setting: dict[str, object]) -> Comparison | None:
    """Hold all widths to the limit; None where no limit, or no other width, has kernels of a common step."""
    having = [c for c in curves if any(s.run.kernel_steps() for s in c.sources)]
    limits = [c for c in having if is_limit(c)]
    finite = [c for c in having if not is_limit(c)]
    if not limits or not finite:
        return None
    sources = [s for c in [limits[0], *finite] for s in c.sources]
    common = set.intersection(*(set(s.run.kernel_steps()) for s in sources))
    if not common:
        return None
    step = max(common)
    truth = limits[0].sources[0].run.kernels(step)
    rows = []
    for curve in finite:
        parts = [s.run.kernels(step) for s in curve.sources]
        for name in NAMES:
            limit, bar = truth[name][0].astype(float), truth[f"{name}_bar"][0].astype(float)
            values = np.concatenate([part[name] for part in parts]).astype(float)
            if values.shape[1:] != limit.shape:
                return None
            size = np.linalg.norm(limit, axis=(-2, -1))
            of_one = np.sqrt((np.linalg.norm(values - limit, axis=(-2, -1)) ** 2).mean(0)) / size
            of_mean = np.linalg.norm(values.mean(0) - limit, axis=(-2, -1)) / size
            own = np.linalg.norm(bar, axis=(-2, -1)) / size
            for l in range(len(size)):
                row = {"kernel": name, "layer": l + 1, "width": curve.width, "networks": len(values)}
                rows.append(row | {"gap_of_one": of_one[l], "gap_of_mean": of_mean[l], "bar": own[l]})
    return Comparison(setting, step, pd.DataFrame(rows))


def text(found: Comparison) -> str:
    """For the terminal."""
    where = f" [{describe(found.setting)}]" if found.setting else ""
    widths = sorted(found.table["width"].unique())
    lines = [
        f"\nkernels of the hidden layers{where} at step {found.step}: gap to the limit's, relative, of one network"
    ]
    heads = "".join(f"{f'n={width_label(n)}':>10}" for n in widths)
    lines.append(f"{'':<18}{heads}{'bar':>10}  rate r in gap ~ n^-r")
    for (name, layer), rows in found.table.groupby(["kernel", "layer"], sort=False):
        by_width = rows.set_index("width")
        gaps = [float(by_width["gap_of_one"].loc[n]) for n in widths]
        cells = "".join(f"{gap:>10.2g}" for gap in gaps)
        law = power_law(widths, gaps) if min(gaps) > 0 else power_law([], [])
        interval = "" if math.isnan(law.low) else f" [{-law.high:.2f}, {-law.low:.2f}]"
        rate = "-" if math.isnan(law.exponent) else f"{-law.exponent:.2f}{interval}"
        lines.append(f"  {NAMES[str(name)]}, layer {layer:<3}{cells}{float(rows['bar'].iloc[0]):>10.2g}  {rate}")
    return "\n".join(lines)
