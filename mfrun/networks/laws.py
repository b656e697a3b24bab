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
import scipy.special
import torch
from torch import Tensor

from mfrun.registry import base, register


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


@register("law", "normal")
@dataclass
class Normal(Law):
    """N(0, 1), as in Section 4.2.1; Gauss-Hermite quadrature."""

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def quantile(self, u: np.ndarray) -> np.ndarray:
        return scipy.special.ndtri(u)

    def quadrature(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        nodes, weights = scipy.special.roots_hermitenorm(k)
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
        nodes, weights = scipy.special.roots_legendre(k)
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
