"""Lines through a quantity against the width, and powers of n, where both are logarithmic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mfrun.blas import special


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


def line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Intercept and slope of the least-squares line, and the half-width of the slope's 95 % interval, of the residuals.

    The half-width is NaN with two points.
    """
    slope, intercept = (float(c) for c in np.polyfit(x, y, 1))
    free = len(x) - 2
    if free < 1:
        return intercept, slope, math.nan
    residuals, apart = y - intercept - slope * x, x - x.mean()
    error = math.sqrt(float(residuals @ residuals) / free / float(apart @ apart))
    return intercept, slope, float(special.stdtrit(free, 0.975)) * error


def power_law(n: Sequence[float], values: Sequence[float]) -> PowerLaw:
    """Fit positive values at different n."""
    if len(set(n)) < 2:
        return PowerLaw()
    intercept, exponent, half = line(np.log(n), np.log(values))
    return PowerLaw(exponent, exponent - half, exponent + half, math.exp(intercept))
