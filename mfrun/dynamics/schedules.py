"""Schedules xi(t) of the learning rate, as functions of the time t = k alpha of Section 3.2.

The rate of layer l at step k is alpha * xi(t) * multiplier_l. To add a schedule: subclass :class:`Schedule`,
``@register`` it, add ``conf/schedule/NAME.yaml``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np

from mfrun.errors import ConfigError
from mfrun.registry import base, checks, reason, register

# A decay that leaves more than this of the rate is as good as none.
FLAT = 0.95
# Steps of a schedule of the user's own that are tried at once: those of a long run would be gigabytes.
TRIED = 1 << 20


@base("schedule")
@dataclass
class Schedule(ABC):
    """Base of all schedules.

    Attributes:
        warmup: time over which the rate first rises linearly to its scheduled value; 0 for none.
        multipliers: one factor for each of the L + 1 layers; empty for ones.
    """

    warmup: float = 0.0
    multipliers: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < math.inf:
            raise ConfigError("warmup", self.warmup, "must be a time t >= 0")
        if any(not 0 <= m < math.inf for m in self.multipliers):
            raise ConfigError("multipliers", self.multipliers, "every factor must be >= 0")

    @abstractmethod
    def xi(self, k: np.ndarray, t: np.ndarray, end: float) -> np.ndarray:
        """xi at the steps k = 1, 2, ... that begin at the times t = (k - 1) alpha; the run ends at time ``end``."""

    @property
    def needs_end(self) -> bool:
        """Whether xi depends on the length of the run, so that a longer run differs from its first step."""
        return False

    def idle(self, end: float) -> dict[str, str]:
        """The times, by key, that come too late to act in a run that ends at time ``end``, and what they leave undone.

        What comes so late was often meant in steps k, not in t = k alpha.
        """
        return {"warmup": f"reaches {end / self.warmup:.2g} of the rate"} if self.warmup > end else {}

    def factors(self, layers: int) -> list[float]:
        """The multipliers of the L + 1 layers."""
        return self.multipliers or [1.0] * layers


@checks("schedule")
def refuse_other_rates(schedule: Schedule, name: str) -> None:
    """Try a class of the user's own.

    Raises:
        ConfigError: it fails, or does not return a rate >= 0 for each step.
    """
    k = np.arange(1.0, 5.0)
    try:
        found = schedule.xi(k, (k - 1) / 4, 1.0)
        xi = np.asarray(found, dtype=np.float64)
    except Exception as error:  # It is the user's own code.
        raise ConfigError("schedule.name", name, f"fails ({type(error).__name__}: {reason(error)})") from error
    if xi.shape != k.shape or not (np.isfinite(xi) & (xi >= 0)).all():
        raise ConfigError("schedule.name", name, f"xi must be a number >= 0 for each step; here {xi.tolist()} for 4")
    if not isinstance(found, np.ndarray):
        raise ConfigError("schedule.name", name, f"xi must return a NumPy array; here a {type(found).__name__}")
    for some in (slice(1, None), slice(2, 3)):
        alone = np.asarray(schedule.xi(k[some], (k[some] - 1) / 4, 1.0), dtype=np.float64)
        if alone.shape != xi[some].shape or not np.allclose(alone, xi[some], rtol=1e-9, atol=0):
            why = f"xi must be a function of each step alone; of steps 1 to 4 it gives {xi.tolist()}, and of"
            raise ConfigError("schedule.name", name, f"{why} {k[some].astype(int).tolist()} {alone.tolist()}")


@dataclass(frozen=True)
class Rates:
    """The learning rates of a run.

    Attributes:
        schedule: xi(t) and the layers' multipliers.
        alpha: learning rate.
        steps: length of the run.
        layers: L + 1.
    """

    schedule: Schedule
    alpha: float
    steps: int
    layers: int

    @property
    def factors(self) -> list[float]:
        """The multipliers of the layers."""
        return self.schedule.factors(self.layers)

    def common(self, first: int, count: int) -> np.ndarray:
        """alpha xi(t) of the updates at steps ``first``, ``first`` + 1, ...: (count,)."""
        k = np.arange(first + 1, first + count + 1, dtype=np.float64)
        xi = self.schedule.xi(k, (k - 1) * self.alpha, self.steps * self.alpha)
        if self.schedule.warmup > 0:
            xi = xi * np.minimum(1.0, k * self.alpha / self.schedule.warmup)
        return self.alpha * xi

    def of_layers(self, first: int, count: int) -> list[list[float]]:
        """alpha xi(t) multiplier_l of the updates at steps ``first``, ``first`` + 1, ...: (count, layers)."""
        return np.outer(self.common(first, count), self.factors).tolist()


def refuse_negative_rates(rates: Rates, name: str) -> None:
    """Try a class of the user's own at every step of the run.

    Raises:
        ConfigError: a rate is negative, or none.
    """
    for first in range(0, rates.steps, TRIED):
        with np.errstate(all="ignore"):
            common = rates.common(first, min(TRIED, rates.steps - first))
        wrong = np.flatnonzero(~(np.isfinite(common) & (common >= 0)))
        if len(wrong):
            k, xi = first + wrong[0] + 1, common[wrong[0]] / rates.alpha
            why = f"xi must be a number >= 0 for each step; it is {xi:g} at step {k}"
            raise ConfigError("schedule.name", name, why)


@register("schedule", "constant")
@dataclass
class Constant(Schedule):
    """xi = 1."""

    def xi(self, k: np.ndarray, t: np.ndarray, end: float) -> np.ndarray:
        return np.ones_like(t)


@register("schedule", "power")
@dataclass
class Power(Schedule):
    """xi = k^-p with k >= 1 the SGD iteration, as in Figures 10 and 12: in k, so that it changes with alpha."""

    p: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.p < math.inf:
            raise ConfigError("p", self.p, "must be >= 0")

    def xi(self, k: np.ndarray, t: np.ndarray, end: float) -> np.ndarray:
        return k**-self.p


@register("schedule", "exponential")
@dataclass
class Exponential(Schedule):
    """xi = exp(-t / time)."""

    time: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.time < math.inf:
            raise ConfigError("time", self.time, "must be a time t > 0")

    def idle(self, end: float) -> dict[str, str]:
        final = math.exp(-end / self.time)
        return super().idle(end) | ({"time": f"lowers xi to {final:.3g} only"} if final > FLAT else {})

    def xi(self, k: np.ndarray, t: np.ndarray, end: float) -> np.ndarray:
        return np.exp(-t / self.time)


@register("schedule", "cosine")
@dataclass
class Cosine(Schedule):
    """From 1 down to ``final`` along half a cosine over the time ``time``, or over the run where that is null."""

    final: float = 0.0
    time: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.final <= 1:
            raise ConfigError("final", self.final, "must lie between 0 and 1")
        if self.time is not None and not 0 < self.time < math.inf:
            raise ConfigError("time", self.time, "must be a time t > 0, or null for the length of the run")

    @property
    def needs_end(self) -> bool:
        return self.time is None

    def idle(self, end: float) -> dict[str, str]:
        final = float(self.xi(np.array([]), np.array([end]), end)[0])
        late = self.time is not None and self.final < FLAT < final
        return super().idle(end) | ({"time": f"lowers xi to {final:.3g} only"} if late else {})

    def xi(self, k: np.ndarray, t: np.ndarray, end: float) -> np.ndarray:
        time = self.time if self.time is not None else max(end, np.finfo(float).tiny)
        return self.final + (1 - self.final) * 0.5 * (1 + np.cos(np.pi * np.minimum(t / time, 1.0)))


@register("schedule", "piecewise")
@dataclass
class Piecewise(Schedule):
    """Constant pieces: ``values[0]`` until ``times[0]``, then ``values[1]`` until ``times[1]``, ..."""

    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=lambda: [1.0])

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.values) != len(self.times) + 1:
            raise ConfigError("values", self.values, f"needs one value more than times={self.times}")
        if not all(a < b < math.inf for a, b in zip([0.0, *self.times], self.times, strict=False)):
            raise ConfigError("times", self.times, "must be positive and increasing")
        if any(not 0 <= v < math.inf for v in self.values):
            raise ConfigError("values", self.values, "every value must be >= 0")

    def idle(self, end: float) -> dict[str, str]:
        late = [t for t in self.times if t >= end]
        return super().idle(end) | ({"times": f"does not come to {late[0]:g}"} if late else {})

    def xi(self, k: np.ndarray, t: np.ndarray, end: float) -> np.ndarray:
        return np.array(self.values)[np.searchsorted(self.times, t, side="right")]
