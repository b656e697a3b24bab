"""Powers of n: the line through a quantity against the width, both logarithmic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats


@dataclass(frozen=True)
class PowerLaw:
    """value ~ C n^exponent.

    Attributes:
        exponent: slope of the least-squares line of log value on log n; NaN with fewer than two points.
        low, high: its 95 % interval, of the line's residuals; NaN with fewer than three points.
        C: the constant.
    """

    exponent: float = math.nan
    low: float = math.nan
    high: float = math.nan
    C: float = math.nan


def power_law(n: Sequence[float], values: Sequence[float]) -> PowerLaw:
    """Fit positive values at different n."""
    if len(n) < 2:
        return PowerLaw()
    line = scipy.stats.linregress(np.log(n), np.log(values))
    exponent, C = float(line.slope), float(np.exp(line.intercept))
    if len(n) < 3:
        return PowerLaw(exponent, C=C)
    half = float(scipy.stats.t.ppf(0.975, len(n) - 2) * line.stderr)
    return PowerLaw(exponent, exponent - half, exponent + half, C)
