"""Limits that are perturbed as the chance of n real neurons would, in mirrored pairs (docs/predict.md).

A network of width n is a system of particles whose measure p fluctuates around the limit's by n^-1/2 G, and whose inner
weights have noise that its neurons see as that of a stand-in (:mod:`mfrun.networks.stand_in`). To first order in
eps = n^-1/2 a metric moves linearly in G, to second order quadratically in G and in the noise. So of two limits with
measures p + eps G and p - eps G and the same noise (its sign differs, which only exchanges the mirrored copies of every
neuron), half the difference is the linear term, whose mean square over G is eps^2 s(t)^2, and the mean less the
unperturbed limit is the quadratic one, of mean eps^2 c(t):

    E m_n(t) = m(t) + c(t) / n + o(1/n),    sd of m_n(t) over starts = s(t) / sqrt(n) + o(n^-1/2).

For K points of measure 1/K, of which n are drawn, G_i = K^-1/2 (xi_i - mean of xi) with xi standard normal has the
covariance of sqrt(n) (c_i / n - 1/K), c the multinomial counts. Every layer that has types has its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mfrun.networks.architecture import Blueprint
from mfrun.networks.drawn import Drawn, names_of
from mfrun.networks.init import Layers
from mfrun.networks.measures import Measure
from mfrun.networks.particles import sample
from mfrun.networks.stand_in import Lumps
from mfrun.seeds import generator


def perturbed(blueprint: Blueprint, layers: Layers, widths: list[int]) -> Drawn:
    """The networks of one group, as ``Perturbations.members`` orders them.

    Args:
        blueprint: what to draw from.
        layers: the shapes of the weights between two neurons.
        widths: n_1 .. n_L, whose fluctuations the neurons see.
    """
    return _Perturbed(blueprint, layers, held(blueprint, layers), widths).drawn()


def held(blueprint: Blueprint, layers: Layers) -> list[int]:
    """The neurons that layers 1 .. L of a perturbed limit hold."""
    sizes = blueprint.predict
    typed = [any(counts.values()) for counts in names_of(blueprint, layers)]
    points = [(sizes.first if l == 0 else sizes.last if typed[l] else sizes.inner) // 2 for l in range(layers.L)]
    return [K * blueprint.copies for K in points]


class _Perturbed(Lumps):
    """Points that all members share, and the fluctuations of each pair."""

    def _key(self) -> tuple[int, ...]:
        return (self.blueprint.seed, self.blueprint.perturbed)

    def _points(self, l: int, m: int) -> Tensor:
        law, count = self.blueprint.init.entries, self.sizes[l] // self.copies
        if m == 0 or self.meta:
            return torch.zeros((self.S, count, m), dtype=torch.float64, device="meta" if self.meta else "cpu")
        return sample("sobol", law, m, count, (*self.key, l), purpose="perturbed").expand(self.S, -1, -1)

    def _counts(self, l: int, typed: bool) -> Tensor:
        count = self.widths[l] * self.copies / self.sizes[l]
        return torch.full((self.S, self.sizes[l] // self.copies), count, dtype=torch.float64)

    def _measure(self, l: int) -> Measure:
        if not any(names_of(self.blueprint, self.layers)[l].values()):
            return Measure.uniform(self.sizes[l])
        K, eps = self.sizes[l] // self.copies, self.widths[l] ** -0.5
        G = self._of_members("fluctuation of the measure", l, (K,))
        G = (G - G.mean(1, keepdim=True)) / math.sqrt(K)
        weights = self._twice((1 / K + eps * G) / self.copies, 1).unsqueeze(-1)
        return Measure(1.0, weights.to("meta") if self.meta else weights)

    def _noise(self, purpose: str, l: int, counts: Tensor) -> Tensor:
        kernel = self.layers.kernels[l]
        shape = (self.sizes[l] // self.copies, self.sizes[l - 1] // self.copies, *kernel)
        xi = self._of_members(purpose, l, shape)
        return xi.mul_(self.blueprint.init.noise / counts[(..., *[None] * len(kernel))].sqrt())

    def _output_bias(self) -> Tensor:
        draws = self._of_members("output bias", self.layers.L, (self.layers.n_out,))
        return self.blueprint.init.bias(draws.div_(math.sqrt(self.widths[-1])))

    def _of_members(self, purpose: str, l: int, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers (S, *shape): one draw for a pair, times the multiple of eps that each member has."""
        drawn = [
            torch.randn(shape, generator=generator(f"perturbed {purpose}", *self.key, r, l), dtype=torch.float64)
            for r in range(self.blueprint.predict.pairs)
        ]
        return torch.stack([drawn[r] * scale for r, scale in self.blueprint.predict.members])
