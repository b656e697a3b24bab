"""The architecture ``dense``: fully-connected layers, drawn for :mod:`mfrun.networks.dense`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from mfrun.errors import ConfigError
from mfrun.networks.architecture import Blueprint
from mfrun.networks.dense import Dense
from mfrun.networks.drawing import AnyWidth
from mfrun.networks.drawn import Drawn
from mfrun.networks.init import Layers
from mfrun.networks.neurons import Bias, Trained
from mfrun.registry import register


@register("architecture", "dense")
@dataclass
class DenseArchitecture(AnyWidth):
    """Fully-connected layers (Section 3.1).

    Attributes:
        ratios: n_l / n for each hidden layer; empty for n_1 = ... = n_L = n.
        biases: False for the network of Section 2.1.
        frozen: layers, 1 to L + 1, that keep their initial weights and biases.
        output_scale: gamma, which multiplies the output. Learning is lazy where it is large, at alpha / gamma^2.
    """

    ratios: list[float] = field(default_factory=list)
    biases: bool = True
    frozen: list[int] = field(default_factory=list)
    output_scale: float = 1.0

    neurons = operations = scalings = layer_kernels = taped = True

    def __post_init__(self) -> None:
        if any(not (math.isfinite(r) and r > 0) for r in self.ratios):
            raise ConfigError("ratios", self.ratios, "every ratio n_l / n must be positive")

    def accept(self, blueprint: Blueprint, names: Mapping[str, str]) -> None:
        self._fit(blueprint.depth)
        super().accept(blueprint, names)

    def widths(self, n: int, depth: int) -> list[int]:
        self._fit(depth)
        widths = [round(n * r) for r in self.ratios] if self.ratios else [n] * (depth - 1)
        if min(widths) < 1:
            raise ConfigError("architecture.ratios", self.ratios, f"leaves a layer without neurons at width={n}")
        return widths

    def _fit(self, depth: int) -> None:
        """Raises ConfigError where the number of ratios does not fit the depth."""
        if self.ratios and len(self.ratios) != depth - 1:
            why = f"depth={depth} has {depth - 1} hidden layers and needs as many"
            raise ConfigError("architecture.ratios", self.ratios, why)

    def layers_of(self, blueprint: Blueprint) -> Layers:
        """One number between any two neurons."""
        return Layers(blueprint.d, blueprint.n_out, ((),) * blueprint.depth, self.biases)

    def network(self, drawn: Drawn, blueprint: Blueprint) -> Dense:
        neuron, activation = blueprint.neuron, blueprint.activation
        return Dense(
            drawn.W,
            [b.unsqueeze(-1) for b in drawn.b] if self.biases else None,
            drawn.p,
            activation,
            trained=None if isinstance(neuron, Bias) else [Trained(neuron, activation, t) for t in drawn.theta],
            operation=blueprint.operation,
            omega=drawn.omega,
        )
