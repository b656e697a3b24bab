"""The horizon: the first time at which the gap of one network exceeds a tolerance, and its law in n.

Where the limit's path is unstable, fluctuations of order n^-1/2 grow like exp(lambda t) along it and are of order 1 at
t = ln(n) / (2 lambda) + const. So the law that is fitted is t_h = a + b ln n, over the widths that leave the limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mfrun.study.power_law import line

# Resamples of the bootstrap over replicates, and how many replicates it takes.
RESAMPLES, BOOTSTRAPPED = 2000, 4


def crossing(gap: np.ndarray, t: np.ndarray, tolerance: float) -> float | None:
    """Time at which a gap first exceeds the tolerance; None for never.

    Between two evaluations, whose grid is coarser than the differences between widths, the gap is taken to grow
    exponentially.

    Args:
        gap: at the evaluations.
        t: their times.
        tolerance: > 0.
    """
    above = np.flatnonzero(gap > tolerance)
    if not len(above):
        return None
    i = int(above[0])
    if i == 0 or not gap[i - 1] > 0 or not math.isfinite(gap[i]):
        return float(t[i])
    share = math.log(tolerance / gap[i - 1]) / math.log(gap[i] / gap[i - 1])
    return float(t[i - 1] + share * (t[i] - t[i - 1]))


def resampled(differences: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """The bootstrap over replicates: arrays (steps, replicates) with as many replicates, drawn again from their own."""
    rng = np.random.default_rng(0)
    for _ in range(RESAMPLES):
        yield [d[:, rng.integers(0, d.shape[1], d.shape[1])] for d in differences]


@dataclass(frozen=True)
class Law:
    """t_h = a + b ln n, with a 95 % confidence interval of b, NaN where nothing can be said.

    Attributes:
        source: what the interval rests on: ``replicates`` (bootstrap) or ``residuals`` (of the line).
        widths: how many have left the limit.
        why: there is no law, in a few words.
    """

    a: float = math.nan
    b: float = math.nan
    low: float = math.nan
    high: float = math.nan
    source: str = ""
    widths: int = 0
    why: str = ""


def law(n: np.ndarray, differences: list[np.ndarray], times: list[np.ndarray], tolerance: float) -> Law:
    """Fit the law to the widths that leave the limit.

    Args:
        n: the widths.
        differences: of each, (steps, replicates), m_n,r(k) - m(k).
        times: of its steps.
        tolerance: of the horizon.
    """

    def horizons(chosen: list[np.ndarray]) -> np.ndarray:
        gaps = [np.sqrt((d**2).mean(1)) for d in chosen]
        found = [crossing(gap, t, tolerance) for gap, t in zip(gaps, times, strict=True)]
        # What is off from the first evaluation on has not left anything.
        return np.array([h if h is not None and h > t[0] else math.nan for h, t in zip(found, times, strict=True)])

    t = horizons(differences)
    left = np.isfinite(t)
    count = len(np.unique(n[left]))
    if count < 3:
        return Law(widths=count, why="fewer than three widths leave the limit")
    a, b, half = line(np.log(n[left]), t[left])
    if min(d.shape[1] for d in differences) < BOOTSTRAPPED:
        return Law(a, b, b - half, b + half, "residuals", count)
    slopes = []
    for chosen in resampled(differences):
        again = horizons(chosen)
        both = left & np.isfinite(again)
        if len(np.unique(n[both])) >= 3:
            slopes.append(line(np.log(n[both]), again[both])[1])
    low, high = np.quantile(slopes, (0.025, 0.975))
    return Law(a, b, float(low), float(high), "replicates", count)
