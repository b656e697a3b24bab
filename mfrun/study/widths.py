"""A width that is there more than once: as real networks, and as fewer neurons that stand for them.

Each is told by its width n and the number of neurons N that stand for it, None for real networks and the limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

Width = tuple[float, int | None]


def beside(there: Iterable[Width]) -> set[Width]:
    """Those that are stood for although real networks of the same width are there; pictures draw these in dots."""
    every = set(there)
    return {(n, neurons) for n, neurons in every if neurons and (n, None) in every}


def once(there: Iterable[Width]) -> set[Width]:
    """Every width once, as a rate takes it: its real networks, or the most neurons that stand for it."""
    best: dict[float, int | None] = {}
    for n, neurons in there:
        if n not in best or (neurons or math.inf) > (best[n] or math.inf):
            best[n] = neurons
    return set(best.items())
