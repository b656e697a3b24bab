"""How neurons are drawn and weighed: n of them for a network of width n, one for each type at n = infinity.

All ways to draw ask the initial law (:mod:`mfrun.networks.init`) what neurons are at step 0, for any kind of layers.
They differ in nothing else:

    finite     n_l i.i.d. draws of a neuron's coordinates, i.i.d. noise on the inner weights, the uniform measure
    limit      quadrature nodes or particles of the same coordinates, no noise, the weights of the quadrature
    stand_in   N_l points of the same coordinates, noise and weights as n_l real neurons would have them
    perturbed  the same, with the fluctuations of n_l real neurons in mirrored pairs around a common limit
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch

from mfrun.errors import ConfigError
from mfrun.networks.architecture import Architecture, Blueprint
from mfrun.networks.drawn import Drawn
from mfrun.networks.finite import finite
from mfrun.networks.init import Layers
from mfrun.networks.limit import discretised, limit
from mfrun.networks.network import Network
from mfrun.networks.perturbed import held as held_perturbed
from mfrun.networks.perturbed import perturbed
from mfrun.networks.several import Several
from mfrun.networks.stand_in import stand_in


class AnyWidth(Architecture):
    """An architecture whose networks are drawn alike at every width, from the shapes of their layers."""

    unions = True
    # Keys that an architecture of this kind may have.
    frozen: Sequence[int] = ()
    output_scale: float = 1.0

    def rates(self, depth: int) -> list[float]:
        """Factors of the layers' learning rates: 0 for frozen ones, gamma^2 for the output's.

        With beta' = gamma beta, d yhat / d beta' is what it is without gamma, and beta' moves gamma times as far as
        beta, which itself moves by gamma times its signal. All other layers see gamma in beta'.

        Raises:
            ConfigError: no such layer, or a factor that makes no sense.
        """
        for l in self.frozen:
            if not 1 <= l <= depth:
                raise ConfigError("architecture.frozen", self.frozen, f"the layers are 1 to {depth}")
        if not 0 < self.output_scale < math.inf:
            raise ConfigError("architecture.output_scale", self.output_scale, "must be a finite number > 0")
        factors = [0.0 if l in self.frozen else 1.0 for l in range(1, depth + 1)]
        factors[-1] *= self.output_scale**2
        return factors

    def made(self, drawn: Drawn, blueprint: Blueprint) -> Network:
        """The network that has the arrays, gamma in those of the output."""
        if self.output_scale != 1.0:
            drawn.W[-1] = drawn.W[-1] * self.output_scale
            drawn.b[-1] = drawn.b[-1] * self.output_scale
        return self.network(drawn, blueprint)

    def met(self, blueprint: Blueprint) -> list[int]:
        """How many numbers of a sample a weight of layers 1 .. L + 1 is multiplied by; one each by default."""
        return [1] * blueprint.depth

    def multiplications(self, blueprint: Blueprint) -> float:
        met = self.met(blueprint)
        if not blueprint.infinite:
            layers = self.layers_of(blueprint)
            pairs = itertools.pairwise([layers.inputs, *self.held(blueprint), layers.n_out])
            sizes = [j * k * math.prod(kernel) for (j, k), kernel in zip(pairs, layers.kernels, strict=True)]
            return sum(times * size for times, size in zip(met, sizes, strict=True))
        # How many types each layer has is for the discretisation to say.
        network = self.draw(replace(blueprint, device=torch.device("meta")))
        named = {f"W{l}": times for l, times in enumerate(met, 1)}
        arrays = [(named.get(name.rpartition(".")[2], 0), array) for name, array in network.state().items()]
        return sum(times * array.numel() for times, array in arrays) / blueprint.replicates

    @abstractmethod
    def layers_of(self, blueprint: Blueprint) -> Layers:
        """The shapes of the weights between two neurons."""

    @abstractmethod
    def network(self, drawn: Drawn, blueprint: Blueprint) -> Network:
        """The network that has the arrays."""

    def finite(self, blueprint: Blueprint) -> Network:
        widths = self.widths(int(blueprint.width), blueprint.depth)
        return self.made(finite(blueprint, self.layers_of(blueprint), widths), blueprint)

    def limit(self, blueprint: Blueprint) -> Network:
        layers = self.layers_of(blueprint)
        types = discretised(blueprint, layers)
        sets = self.made(limit(blueprint, layers, types), blueprint)
        if not blueprint.union:
            return sets
        union = [t.together(blueprint.sets) for t in types]
        return Several({"": self.made(limit(blueprint, layers, union), blueprint), "sets.": sets})

    def stand_in(self, blueprint: Blueprint) -> Network:
        real = self.widths(int(blueprint.width), blueprint.depth)
        drawn = stand_in(blueprint, self.layers_of(blueprint), self.held(blueprint), real)
        return self.made(drawn, blueprint)

    def lumped(self, blueprint: Blueprint) -> list[float]:
        if not blueprint.perturbed:
            return super().lumped(blueprint)
        real = self.widths(blueprint.predict.width, blueprint.depth)
        sizes = held_perturbed(blueprint, self.layers_of(blueprint))
        return [n / N for n, N in zip(real, sizes, strict=True)]

    def perturbed(self, blueprint: Blueprint) -> Network:
        widths = self.widths(blueprint.predict.width, blueprint.depth)
        return self.made(perturbed(blueprint, self.layers_of(blueprint), widths), blueprint)
