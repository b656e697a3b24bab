"""The measure p_l that a layer carries over its neurons.

Every sum over the neurons of a hidden layer is an average under p_l. A network of finite width has the uniform measure
1/n_l; the n = infinity network has the weights of a quadrature rule. The forward pass, the scaled backward pass and the
update are the same for both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Measure:
    """p_l = ``scale`` * ``weights``, over the K neurons of a layer.

    Attributes:
        scale: a number common to all neurons, free of cost: matrix products take it as their ``alpha``. Without weights
            it is 1/K, but for the multipliers of other scalings than the mean field one.
        weights: shape (1, K, 1) or (S, K, 1) for S networks side by side; None stands for ones.
    """

    scale: float
    weights: Tensor | None = None

    @staticmethod
    def uniform(neurons: int) -> Measure:
        """p = 1/K, the measure of a finite network."""
        return Measure(1.0 / neurons)

    @staticmethod
    def counting() -> Measure:
        """p = 1: plain sums, over the input's coordinates and the network's outputs."""
        return Measure(1.0)

    def member(self, s: int) -> Measure:
        """That of one of the stacked networks, (1, K, 1)."""
        if self.weights is None:
            return self
        s %= len(self.weights)
        return Measure(self.scale, self.weights[s : s + 1])

    def weigh(self, a: Tensor, out: Tensor) -> None:
        """Write ``weights * a`` into ``out``, which is ``a`` where there are no weights; ``scale`` is left to others.

        Args:
            a: (S, K, B) or, for one network, (K, B).
            out: of the same shape.
        """
        if self.weights is not None:
            torch.mul(a, self.weights if a.dim() == 3 else self.weights[0], out=out)

    def mean(self, a: Tensor) -> Tensor:
        """Average of (S, K, B) over the neurons: (S, B), float64."""
        if self.weights is None:
            return 1.0 / a.shape[-2] * a.sum(-2).double()
        return self.scale * (a * self.weights).sum(-2).double()

    def probabilities(self, neurons: int, member: int = 0) -> Tensor:
        """The measure of one of the stacked networks as a vector (neurons,) that sums to 1, float64, on the CPU."""
        if self.weights is None:
            return torch.full((neurons,), 1.0 / neurons, dtype=torch.float64)
        p = self.weights[member % len(self.weights), :, 0].double().cpu()
        return p / p.sum()
