"""The horizon: the first time at which the gap of one network exceeds a tolerance, and its law in n.

Where the limit's path is unstable, fluctuations of order n^-1/2 grow like exp(lambda t) along it and are of order 1 at
t = ln(n) / (2 lambda) + const. So the law that is fitted is t_h = a + b ln n, over the widths that leave the limit.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from mfrun.study.bootstrap import BOOTSTRAPPED, half_width
from mfrun.study.power_law import line


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

    def horizon_of(t: np.ndarray, d: np.ndarray) -> float:
        found = crossing(np.sqrt((d**2).mean(1)), t, tolerance)
        # What is off from the first evaluation on has not left anything.
        return found if found is not None and found > t[0] else math.nan

    of = [functools.partial(horizon_of, t) for t in times]
    t = np.array([quantity(d) for quantity, d in zip(of, differences, strict=True)])
    left = np.flatnonzero(np.isfinite(t))
    count = len(np.unique(n[left]))
    if count < 3:
        return Law(widths=count, why="fewer than three widths leave the limit")
    x = np.log(n[left])
    a, b, half = line(x, t[left])
    source = "residuals"
    if min(d.shape[1] for d in differences) >= BOOTSTRAPPED:
        half, source = half_width(x, [differences[i] for i in left], [of[i] for i in left]), "replicates"
    return Law(a, b, b - half, b + half, source, count)
