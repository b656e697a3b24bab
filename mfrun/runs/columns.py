"""What the columns of metrics.csv are, by their names (:mod:`mfrun.dynamics.evaluate` lists them)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# Columns that are no metrics.
KEYS = ("step", "t", "replicate", "wall_seconds")
# Endings of those that say how far a metric may be off: by the particles of the limit, and by the samples; and of the
# mean of the limit's particle sets, before the bias that their union shows is taken out of it.
SETS = "_sets"
ASIDE = ("_bar", "_se", SETS)

# A share of a loss up to which what is taken out of it is small, and the share of the first loss below which all losses
# are alike: it is no harm that, where all is learned, sets reach a ten thousandth and their union half of that.
SMALL, NOTHING = 0.1, 0.01


def taken_out(rows: pd.DataFrame) -> pd.Series:
    """By step, the largest share of a loss that was taken out of the sets' mean; empty without a union.

    A replicate that diverges counts in no row: its last finite losses are any numbers.

    The bar of n = infinity is true to second order in a set's difference from the true measure
    (:func:`mfrun.dynamics.evaluate.of_sets`); where a large part of a loss is taken out, that is no small difference.

    Args:
        rows: of metrics.csv.
    """
    losses = [str(c) for c in rows if str(c).endswith("_loss") and f"{c}{SETS}" in rows]
    finite = rows[losses].abs().lt(math.inf).all(axis=1)
    rows = rows[~rows["replicate"].isin(rows.loc[~finite, "replicate"])]
    shares = rows[[]].copy()
    for loss in losses:
        first = rows.loc[rows["step"] == rows["step"].min(), loss].abs().max()
        shares[loss] = (rows[f"{loss}{SETS}"] - rows[loss]).abs() / rows[loss].abs().clip(lower=NOTHING * first)
    return shares.max(axis=1).groupby(rows["step"]).max().dropna()


def doubtful(rows: pd.DataFrame) -> tuple[int, int] | None:
    """The first and the last step at which more than a small part of a loss was taken out; None where there is none."""
    shares = taken_out(rows)
    steps = shares.index[shares > SMALL]
    return (int(steps[0]), int(steps[-1])) if len(steps) else None


def doubt(steps: tuple[int, int]) -> str:
    """What :func:`doubtful` has found, in words."""
    first, last = steps
    where = f"at step {first}" if first == last else f"between steps {first} and {last}"
    return (
        f"{where} more than {SMALL:.0%} of a loss is the bias of n = inf's particle sets: what is taken out and the "
        "bar, which are for small differences, may be wrong there; more particles tell (docs/limit.md)"
    )
