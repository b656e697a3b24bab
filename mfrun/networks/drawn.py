"""The arrays of networks at step 0, and what the types of their neurons make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mfrun.networks.architecture import Blueprint
from mfrun.networks.init import TIED, InitialLaw, Layers
from mfrun.networks.measures import Measure


@dataclass
class Drawn:
    """The arrays of S stacked networks at step 0.

    Attributes:
        W: the L + 1 weight arrays W_l (S, K_l, K_{l-1}, *kernel_l). The output weights are the last of them.
        b: the L + 1 bias arrays (S, K_l); they are there for networks without biases, too.
        p: the L measures.
        theta: the L arrays theta_l (S, K_l, q).
        omega: probabilities (S, Q) of Q nodes for every inner weight, which then stand side by side in the columns of
            W_l, (S, K_l, K_{l-1} Q); None where one says all.
    """

    W: list[Tensor]
    b: list[Tensor]
    p: list[Measure]
    theta: list[Tensor]
    omega: Tensor | None = None

    def to(self, dtype: torch.dtype, device: torch.device) -> Drawn:
        """The same in another type and place; every array is contiguous."""

        def ready(array: Tensor) -> Tensor:
            return array.to(dtype=dtype, device=device).contiguous()

        p = [Measure(m.scale, None if m.weights is None else ready(m.weights)) for m in self.p]
        W, b, theta = ([ready(array) for array in arrays] for arrays in (self.W, self.b, self.theta))
        return Drawn(W, b, p, theta, None if self.omega is None else ready(self.omega))


class Typed:
    """Neurons that are given by their types: the points, in every layer, of the coordinates of the initial law.

    Args:
        blueprint: what to draw from.
        layers: the shapes of the weights between two neurons.
        nodes: points (S, K_l, m_l) of the coordinates of layers 1 .. L, of mean 0 and variance 1.
    """

    def __init__(self, blueprint: Blueprint, layers: Layers, nodes: Sequence[Tensor]) -> None:
        self.init, self.neuron, self.layers, self.nodes = blueprint.init, blueprint.neuron, layers, nodes
        self._coordinates = []
        for array, names in zip(nodes, names_of(blueprint, layers), strict=True):
            parts = torch.split(array, list(names.values()), -1) if names else ()
            self._coordinates.append(dict(zip(names, parts, strict=True)))

    def first(self) -> Tensor:
        """W_1."""
        w = self.init.first(self._given(0, "w", self.layers.fan_in), self.layers.fan_in)
        return torch.unflatten(w, -1, (self.layers.inputs, *self.layers.kernels[0]))

    def inner(self, l: int) -> Tensor | float:
        """The conditional mean of W_{l+1}, l = 1 .. L - 1, for each pair of types, or one number for all."""
        labels = [self.init.labels(k + 1, self._coordinates[k]) for k in (l, l - 1)]
        return self.init.inner(l + 1, *labels)

    def output(self) -> Tensor:
        """W_{L+1} = beta."""
        beta = self.init.output(self._given(self.layers.L - 1, "beta", self.layers.betas))
        return torch.unflatten(beta, -1, (self.layers.n_out, *self.layers.kernels[-1])).movedim(2, 1)

    def bias(self, l: int) -> Tensor:
        """b_{l+1}, l = 0 .. L - 1."""
        return self.init.bias(self._given(l, "bias", 1))[..., 0]

    def theta(self, l: int) -> Tensor:
        """theta_{l+1}, l = 0 .. L - 1."""
        z = self._zeros(l, len(self.neuron.means))
        if self.neuron.spread:
            z[..., self.neuron.spread] = self._coordinates[l]["theta"]
        return self.neuron.initial(z)

    def _given(self, l: int, name: str, wanted: int) -> Tensor:
        """A copy of coordinates (S, K_{l+1}, wanted), drawn or tied to labels; zeros for those without a spread."""
        found = self._coordinates[l].get(name)
        if found is not None:
            return found.clone()
        labels = self.init.labels(l + 1, self._coordinates[l]) if name in TIED else None
        tied = None if labels is None else tied_to(self.init, name, self.layers, labels)
        return self._zeros(l, wanted) if tied is None else tied

    def _zeros(self, l: int, wanted: int) -> Tensor:
        nodes = self.nodes[l]
        return nodes.new_zeros((*nodes.shape[:2], wanted))


def names_of(blueprint: Blueprint, layers: Layers) -> list[dict[str, int]]:
    """What tells the neurons of layers 1 .. L apart, by name, with the number of coordinates of each."""
    return [blueprint.init.coordinates(l, layers, blueprint.neuron) for l in range(1, layers.L + 1)]


def tied_to(init: InitialLaw, name: str, layers: Layers, labels: Tensor) -> Tensor | None:
    """Coordinates (..., K, number) that labels (..., K, m) decide; output weights are alike at all entries of a kernel.

    None where they are drawn on their own.
    """
    found = init.tied(name, layers.n_out if name == "beta" else 1, labels)
    if found is None or name != "beta":
        return found
    return found.repeat_interleave(layers.betas // layers.n_out, -1)


def beside(mean: Tensor | float, axes: int) -> Tensor | float:
    """A conditional mean beside more axes, those of a kernel or of nodes."""
    return mean[(..., *[None] * axes)] if isinstance(mean, Tensor) else mean
