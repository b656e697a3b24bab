"""How far the neurons of each layer differ, at every width and in the limit: the second table of ``mfrun check``."""

from __future__ import annotations

import math

import pandas as pd

from mfrun.config import width_label
from mfrun.dynamics.experiment import Experiment
from mfrun.dynamics.labels import Labels, effective_types, samples_of
from mfrun.networks.network import Network

# A layer of the limit has collapsed where its neurons are of no more types than this.
COLLAPSED = 1.0 + 1e-4


def effective(experiments: list[Experiment], limit: Network | None) -> pd.DataFrame:
    """Effective number of types by hidden layer (rows) and width (columns), the limit's last where there is one."""
    x = samples_of(experiments[0])
    columns: dict[float, list[float]] = {e.cfg.width: effective_types(e.network(), x) for e in experiments}
    if limit is not None:
        columns[math.inf] = effective_types(limit, x)
    found = pd.DataFrame(columns)
    found.index = pd.Index(range(1, len(found) + 1), name="layer")
    return found


def text(found: pd.DataFrame, of_labels: list[Labels]) -> str:
    """For the terminal."""
    widths = [float(str(n)) for n in found]
    lines = ["effective number of types at the start (participation ratio of a layer's outputs over its neurons)"]
    lines.append(f"{'':<18}" + "".join(f"{f'n={width_label(n)}':>9}" for n in widths))
    for layer, row in zip(found.index, found.to_numpy(), strict=True):
        collapsed = "  collapsed" if math.isinf(widths[-1]) and row[-1] <= COLLAPSED else ""
        lines.append(f"  {f'layer {layer}':<16}" + "".join(f"{v:>9.3g}" for v in row) + collapsed)
    if of_labels:
        finite = [n for n in widths if not math.isinf(n)]
        lines.append(
            "labels: what they add to the deviation of h_l over neurons, and what the chance of n neurons does"
        )
        lines.append(
            f"{'':<18}{'labels':>9}" + "".join(f"{f'n={width_label(n)}':>9}" for n in finite) + "  weaker below"
        )
        for one in of_labels:
            chance = "".join(f"{one.noise / math.sqrt(n):>9.2g}" for n in finite)
            needed = f"n = {math.ceil(one.needed())}" if math.isfinite(one.needed()) else "(not to be told)"
            lines.append(f"  {f'layer {one.layer}':<16}{one.signal:>9.2g}{chance}  {needed}")
    return "\n".join(lines)
