"""Powers of n: the line through a quantity against the width, both logarithmic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.special


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
    x, y = np.log(n), np.log(values)
    slope, intercept = np.polyfit(x, y, 1)
    exponent, C, free = float(slope), float(np.exp(intercept)), len(n) - 2
    if free < 1:
        return PowerLaw(exponent, C=C)
    residuals, apart = y - intercept - slope * x, x - x.mean()
    error = math.sqrt(float(residuals @ residuals) / free / float(apart @ apart))
    half = float(scipy.special.stdtrit(free, 0.975)) * error
    return PowerLaw(exponent, exponent - half, exponent + half, C)
