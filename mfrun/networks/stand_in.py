"""A network of n neurons a layer stood for by one of N: any width, at the cost of N neurons (docs/width.md).

A layer above the first one sees the noise tau2 xi_ji of its i.i.d. weights only through sums over many neurons. A
neuron that stands for c real ones, which are alike but for their noise, carries the average of their weights, so noise
of variance tau2^2 / c. Two sums see it, over the neurons below and over those above, and so it has two independent
parts,

    W_{(j,s),(i,t)} = mean_ji + s alpha_ji + t gamma_ji,    s, t = +-1,
    alpha_ji ~ (0, tau2^2 / c_i),    gamma_ji ~ (0, tau2^2 / c_j),

one for each sum, and every neuron is there twice, as mirrored copies (j, +-) of one type: of the sum over i the copies
cancel gamma and of the sum over j they cancel alpha, so that h_j has the noise (tau2^2 / n_{l-1}) E_p[a a'] and the
bracket of D_i has (tau2^2 / n_l) E_p[D D'], as in the real network, and averages over the neurons are free of the error
of order (n N)^-1/2 that independent noise would leave.

The types of a layer (w, beta, biases, what the initial law labels neurons by) are N / 2 well-spread points, and how
many real neurons are of each is a draw: c ~ Multinomial(n_l; 2 / N, ...), whose chance is that of n_l i.i.d. types.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mfrun.networks.architecture import Blueprint
from mfrun.networks.drawn import Drawn, Typed, beside, names_of
from mfrun.networks.finite import finite
from mfrun.networks.init import Layers
from mfrun.networks.measures import Measure
from mfrun.networks.particles import sample
from mfrun.seeds import entropy, generator


def stand_in(blueprint: Blueprint, layers: Layers, sizes: list[int], widths: list[int]) -> Drawn:
    """Neurons that stand for more than there are.

    Args:
        blueprint: what to draw from.
        layers: the shapes of the weights between two neurons.
        sizes: N_1 .. N_L, the neurons that are drawn.
        widths: n_1 .. n_L, those that they stand for.
    """
    chosen = blueprint.stand_in
    if chosen.measure == "drawn" and not chosen.mirrored:
        return finite(blueprint, layers, sizes, widths[0] / sizes[0])
    return Lumps(blueprint, layers, sizes, widths).drawn()


class Lumps:
    """The points of every layer, and how many real neurons each of them stands for.

    Args:
        blueprint: what to draw from.
        layers: the shapes of the weights between two neurons.
        sizes: N_1 .. N_L, the neurons that are drawn.
        widths: n_1 .. n_L, those that they stand for.
    """

    def __init__(self, blueprint: Blueprint, layers: Layers, sizes: list[int], widths: list[int]) -> None:
        self.blueprint, self.layers, self.sizes, self.widths = blueprint, layers, sizes, widths
        self.S, self.L, self.meta = blueprint.replicates, layers.L, blueprint.device.type == "meta"
        self.copies = blueprint.copies
        self.key = self._key()
        names = names_of(blueprint, layers)
        self.typed = Typed(blueprint, layers, [self._points(l, sum(counts.values())) for l, counts in enumerate(names)])
        self.counts = [self._counts(l, any(counts.values())) for l, counts in enumerate(names)]

    def drawn(self) -> Drawn:
        """The arrays."""
        typed, L = self.typed, self.L
        W = [self._twice(typed.first(), 1), *(self._inner(l) for l in range(1, L)), self._twice(typed.output(), 2)]
        b = [*(self._twice(typed.bias(l), 1) for l in range(L)), self._output_bias()]
        p = [self._measure(l) for l in range(L)]
        drawn = Drawn(W, b, p, [self._twice(typed.theta(l), 1) for l in range(L)])
        return drawn.to(self.blueprint.dtype, self.blueprint.device)

    def _key(self) -> tuple[int, ...]:
        """Of every stream."""
        return (self.blueprint.seed, int(self.blueprint.width))

    def _points(self, l: int, m: int) -> Tensor:
        """Types (S, K_l, m) of layer l + 1, coordinates of mean 0 and variance 1."""
        law, count = self.blueprint.init.entries, self.sizes[l] // self.copies
        if m == 0 or self.meta:
            return torch.zeros((self.S, count, m), dtype=torch.float64, device="meta" if self.meta else "cpu")
        if self.blueprint.stand_in.measure == "drawn":
            streams = [generator("stand-in types", *self.key, r, l) for r in range(self.S)]
            return torch.stack([law.sample((count, m), stream) for stream in streams])
        return torch.stack([sample("sobol", law, m, count, (*self.key, r, l)) for r in range(self.S)])

    def _counts(self, l: int, typed: bool) -> Tensor:
        """Real neurons (S, K_l) behind each point of layer l + 1; copies share them."""
        K, n = self.sizes[l] // self.copies, self.widths[l]
        if not typed or self.blueprint.stand_in.measure != "sampled":
            return torch.full((self.S, K), n / K, dtype=torch.float64)
        streams = [np.random.default_rng(entropy("stand-in counts", *self.key, r, l)) for r in range(self.S)]
        return torch.from_numpy(np.stack([s.multinomial(n, np.full(K, 1 / K)) for s in streams])).double()

    def _measure(self, l: int) -> Measure:
        """p_{l+1}."""
        counts, n = self.counts[l], self.widths[l]
        if bool((counts == counts[0, 0]).all()):
            return Measure.uniform(self.sizes[l])
        weights = self._twice(counts / (self.copies * n), 1).unsqueeze(-1)
        return Measure(1.0, weights.to("meta") if self.meta else weights)

    def _inner(self, l: int) -> Tensor:
        """W_{l+1}: the noise of each pair of points, around its conditional mean."""
        kernel, above, below = self.layers.kernels[l], self.counts[l], self.counts[l - 1]
        shape = (self.S, self.sizes[l], self.sizes[l - 1], *kernel)
        if self.meta:
            return torch.empty(shape, device="meta")
        mean = beside(self.typed.inner(l), len(kernel))
        if self.copies == 1:
            c = torch.tensor(self.widths[l] / self.sizes[l], dtype=torch.float64)
            return self._noise("noise", l, c) + mean
        alpha = self._noise("noise of sums over the layer below", l, below[:, None, :])
        gamma = self._noise("noise of sums over the layer above", l, above[:, :, None])
        rows = [torch.cat([mean + s * alpha + t * gamma for t in (1, -1)], 2) for s in (1, -1)]
        return torch.cat(rows, 1)

    def _noise(self, purpose: str, l: int, counts: Tensor) -> Tensor:
        """Noise of variance tau2^2 / c for each pair of points; none for a point that stands for nobody."""
        init, kernel = self.blueprint.init, self.layers.kernels[l]
        shape = (self.sizes[l] // self.copies, self.sizes[l - 1] // self.copies, *kernel)
        streams = [generator(f"stand-in {purpose}", *self.key, r, l) for r in range(self.S)]
        xi = torch.stack([init.entries.sample(shape, stream) for stream in streams])
        deviation = torch.where(counts > 0, init.noise / counts.sqrt(), 0.0)
        return xi.mul_(deviation[(..., *[None] * len(kernel))] if deviation.dim() else deviation)

    def _output_bias(self) -> Tensor:
        """b_{L+1}, the average of theta_3 over the n_L real neurons of the last layer (Eq. 38)."""
        shape = (self.layers.n_out,)
        streams = [generator("stand-in output bias", *self.key, r) for r in range(self.S)]
        draws = torch.stack([self.blueprint.init.entries.sample(shape, stream) for stream in streams])
        return self.blueprint.init.bias(draws.div_(math.sqrt(self.widths[-1])))

    def _twice(self, array: Tensor, axis: int) -> Tensor:
        """The array with its copies beside it."""
        return array.repeat(*(self.copies if i == axis else 1 for i in range(array.dim())))
