"""The 95 % interval of a slope against the width, from a bootstrap over each width's replicates.

What a few replicates leave open is more than the quantiles of their bootstrap show: with 4 of them these hold the truth
84 times of 100. So the bootstrap gives the variance of each width's quantity, R / (R - 1) times as large as it is among
the resamples of R replicates, and Student's t the interval, with as many degrees of freedom as the variances of the
slope's terms have together (Welch and Satterthwaite).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from mfrun.blas import special

# Resamples, and how many replicates it takes.
RESAMPLES, BOOTSTRAPPED = 2000, 4


def half_width(x: np.ndarray, replicates: Sequence[np.ndarray], of: Sequence[Callable[[np.ndarray], float]]) -> float:
    """Half-width of the interval of the slope of the least-squares line of a quantity against x.

    Args:
        x: of each width.
        replicates: of each, an array whose last axis they are, at least two.
        of: gives the quantity of each width from such an array; where it is not finite the resample does not count.
    """
    rng = np.random.default_rng(0)
    apart = x - x.mean()
    weights = apart / (apart @ apart)
    terms, free = np.zeros(len(x)), np.array([array.shape[-1] - 1 for array in replicates])
    for i, (array, quantity) in enumerate(zip(replicates, of, strict=True)):
        R = array.shape[-1]
        values = np.array([quantity(array[..., rng.integers(0, R, R)]) for _ in range(RESAMPLES)])
        values = values[np.isfinite(values)]
        terms[i] = weights[i] ** 2 * (values.var() if len(values) else math.nan) * R / (R - 1)
    total = float(terms.sum())
    if not total > 0:
        return total
    return float(special.stdtrit(total**2 / float((terms**2 / free).sum()), 0.975)) * math.sqrt(total)
