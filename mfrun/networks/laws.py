"""Initial laws of mean 0 and variance 1, as samples, as a quantile function and as a quadrature rule.

A finite network draws samples. The n = infinity network takes quadrature nodes where a law lives in few dimensions and
(quasi-)random particles elsewhere, which go through the quantile function. To add a law: subclass :class:`Law` here and
``@register`` it, or name a class of your own by ``init.law=package.module:Class``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mfrun.blas import special
from mfrun.errors import ConfigError
from mfrun.registry import base, reason, register


@base("law")
class Law(ABC):
    """A law on the real line, symmetric about 0, with variance 1."""

    @abstractmethod
    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """I.i.d. draws, float64, on the generator's device."""

    @abstractmethod
    def quantile(self, u: np.ndarray) -> np.ndarray:
        """Inverse distribution function at ``u`` in (0, 1)."""

    @abstractmethod
    def quadrature(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """``k`` nodes and positive weights that sum to 1 (fewer where fewer are exact)."""


def refuse_unless_a_law(law: Law, name: str) -> None:
    """Hold the three faces of a law of the user's own to one another: a network of each width takes another of them.

    Raises:
        ConfigError: it fails, draws from other chance than it is given, or samples, quantiles and nodes differ.
    """
    count, u = 20_000, (np.arange(1000) + 0.5) / 1000
    try:
        drawn, again = (law.sample((count,), torch.Generator().manual_seed(0)) for _ in range(2))
        quantiles, (nodes, weights) = np.asarray(law.quantile(u)), law.quadrature(16)
        below, up_to = (np.searchsorted(np.sort(drawn.numpy()), quantiles, side) / count for side in ("left", "right"))
        found = {
            "samples": (drawn.mean(), drawn.square().mean()),
            "quantiles": (quantiles.mean(), (quantiles**2).mean()),
        }
        found["nodes"] = (weights @ nodes, weights @ nodes**2)
    except Exception as error:  # It is the user's own code.
        raise ConfigError("law", name, f"fails ({type(error).__name__}: {reason(error)})") from error
    if not torch.equal(drawn, again):
        raise ConfigError("law", name, "its samples are others when drawn again; all chance comes from the generator")
    for what, (mean, square) in found.items():
        if not (abs(float(mean)) < 0.1 and abs(float(square) - 1) < 0.2):
            why = (
                f"has mean 0 and variance 1; its {what} have mean {float(mean):.2g} and mean square {float(square):.3g}"
            )
            raise ConfigError("law", name, why)
    # The largest distance of two distribution functions; 20000 samples are within 0.014 but for one in a thousand.
    off = float(np.maximum(u - up_to, below - u).max())
    if not off < 0.02:
        raise ConfigError("law", name, f"its samples have another law than its quantiles: off by {off:.2g}")


@register("law", "normal")
@dataclass
class Normal(Law):
    """N(0, 1), as in Section 4.2.1; Gauss-Hermite quadrature."""

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def quantile(self, u: np.ndarray) -> np.ndarray:
        return special.ndtri(u)

    def quadrature(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        nodes, weights = special.roots_hermitenorm(k)
        return nodes, weights / weights.sum()


@register("law", "uniform")
@dataclass
class Uniform(Law):
    """Uniform on [-sqrt 3, sqrt 3]; Gauss-Legendre quadrature."""

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64).mul_(2).sub_(1).mul_(math.sqrt(3))

    def quantile(self, u: np.ndarray) -> np.ndarray:
        return math.sqrt(3) * (2 * u - 1)

    def quadrature(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        nodes, weights = special.roots_legendre(k)
        return math.sqrt(3) * nodes, weights / weights.sum()


@register("law", "rademacher")
@dataclass
class Rademacher(Law):
    """-1 or +1 with equal chance; its two points are the exact quadrature."""

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randint(0, 2, shape, generator=generator).double().mul_(2).sub_(1)

    def quantile(self, u: np.ndarray) -> np.ndarray:
        return np.where(u < 0.5, -1.0, 1.0)

    def quadrature(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        return np.array([-1.0, 1.0]), np.array([0.5, 0.5])
