"""What every architecture says of itself, and what it is given to draw a network from.

To add one: subclass :class:`Architecture`, ``@register`` it, add ``conf/architecture/NAME.yaml``; or name a class of
your own by ``architecture.name=package.module:Class``. ``widths`` and ``finite`` are enough for networks of finite
width.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from mfrun.errors import ConfigError
from mfrun.networks.activations import Activation
from mfrun.networks.init import InitialLaw
from mfrun.networks.network import Image, Network
from mfrun.networks.neurons import Bias, Neuron
from mfrun.networks.operations import Operation, Product
from mfrun.networks.particles import Particles
from mfrun.networks.products import Products, arrange
from mfrun.networks.scaling import MeanField, Scaling
from mfrun.registry import base

MEASURES = ("sampled", "spread", "drawn")


@dataclass
class StandIn:
    """How N neurons stand for more (:mod:`mfrun.networks.stand_in`).

    Attributes:
        mirrored: whether every neuron is there twice, as copies with opposite noise.
        measure: ``sampled``, well-spread types and a draw of how many real neurons are of each; ``spread``, without
            that draw; ``drawn``, i.i.d. types.
        first: neurons of layer 1 at ratio 1, which has to represent the law of w in d dimensions; None for N.
        last: neurons of layer L at ratio 1, which has to represent that of the output weights; None for N.
    """

    mirrored: bool = True
    measure: str = "sampled"
    first: int | None = None
    last: int | None = None

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ConfigError("measure", self.measure, f"one of {', '.join(MEASURES)}")
        for key in ("first", "last"):
            count = getattr(self, key)
            if count is not None and count < 2:
                raise ConfigError(key, count, "must be at least 2, or null for as many as in the other layers")


@dataclass
class Perturbations:
    """Perturbed limits that train side by side (:mod:`mfrun.networks.perturbed`), the keys of ``predict``.

    Attributes:
        width: the perturbations are the fluctuations of networks of this width, eps = width^-1/2.
        groups: independent sets of points, each a run with an unperturbed limit of its own.
        pairs: of mirrored perturbations in a group.
        tested: pairs of them that are also trained with perturbations twice as large.
        first: neurons of layer 1, two for each point of the law of w (where no noise is mirrored, half as many).
        last: neurons of every other layer that has types: output weights, biases where tau3 > 0.
        inner: neurons of the layers that have none.
    """

    width: int = 6400
    groups: int = 8
    pairs: int = 6
    tested: int = 2
    first: int = 512
    last: int = 128
    inner: int = 16

    def __post_init__(self) -> None:
        for key, least in (("width", 100), ("groups", 2), ("pairs", 1)):
            if getattr(self, key) < least:
                raise ConfigError(key, getattr(self, key), f"must be at least {least}")
        if not 0 <= self.tested <= self.pairs:
            raise ConfigError("tested", self.tested, f"must be from 0 to pairs = {self.pairs}")
        for key in ("first", "last", "inner"):
            value = getattr(self, key)
            if value < 2 or value % 2:
                raise ConfigError(key, value, "must be an even number: every neuron is there twice")

    @property
    def members(self) -> list[tuple[int, float]]:
        """Pair and multiple of eps of each network of a group: the unperturbed one, the pairs, the tested ones."""
        pairs = [(r, sign) for r in range(self.pairs) for sign in (1.0, -1.0)]
        return [(0, 0.0), *pairs, *((r, 2 * sign) for r, sign in pairs[: 2 * self.tested])]

    @property
    def partners(self) -> list[int]:
        """For each network of a group the one with the opposite perturbation; the unperturbed one is its own."""
        return [self.members.index((r, -scale)) for r, scale in self.members]


@dataclass(frozen=True)
class Blueprint:
    """All that a network is drawn from, but for its architecture.

    Attributes:
        activation: sigma.
        init: the initial law rho_0.
        width: n, or ``math.inf`` for the mean field limit.
        depth: number of layers, L + 1.
        d: input dimension.
        n_out: number of outputs.
        image: height, width and channels of the inputs, where they are images; their product is d.
        seed: of the initialisation; replicate r of a given width is the same however many there are.
        replicates: how many independent initialisations are stacked.
        particles: the discretisation of n = infinity, where each replicate has ``particles.sets`` independent sets.
        neurons: N, so that larger widths are stood for by N neurons a layer; None where all widths are real.
        stand_in: how they are.
        perturbed: the group of perturbed limits to draw instead, from 1 on; 0 for none.
        predict: how these are perturbed.
        scaling: powers of n; n = infinity has the mean field one only.
        neuron: sigma_l(theta, h), by default sigma(h + b).
        operation: sigma*(w, a), by default w a.
        dtype: of the weights. Draws are made in float64, so that precisions start from the same network.
        device: where the network lives. Draws are made on the CPU, so that devices start from the same network; on the
            device ``meta`` arrays have shapes and no numbers, and nothing is drawn.
    """

    activation: Activation
    init: InitialLaw
    width: float
    depth: int
    d: int
    n_out: int
    image: Image | None = None
    seed: int = 0
    replicates: int = 1
    particles: Particles = field(default_factory=Particles)
    neurons: int | None = None
    stand_in: StandIn = field(default_factory=StandIn)
    perturbed: int = 0
    predict: Perturbations = field(default_factory=Perturbations)
    scaling: Scaling = field(default_factory=MeanField)
    neuron: Neuron = field(default_factory=Bias)
    operation: Operation = field(default_factory=Product)
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def infinite(self) -> bool:
        """Whether this is the mean field limit."""
        return math.isinf(self.width)

    @property
    def stood_for(self) -> bool:
        """Whether fewer neurons stand for those of this width."""
        return self.neurons is not None and self.neurons < self.width and not self.infinite

    @property
    def size(self) -> int:
        """Neurons that a layer of a finite network holds: N where they stand for n, else n."""
        return self.neurons if self.stood_for and self.neurons else int(self.width)

    @property
    def sets(self) -> int:
        """Independent particle sets behind each replicate: 1 for a finite network."""
        return self.particles.sets if self.infinite and not self.perturbed else 1

    @property
    def union(self) -> bool:
        """Whether the union of these sets is a network as well."""
        return self.sets > 1 and self.particles.union

    @property
    def copies(self) -> int:
        """How often every point of a stand-in or a perturbed limit is there: twice where inner weights have noise, and
        it is mirrored."""
        return 2 if self.noisy and (self.stand_in.mirrored or self.perturbed > 0) else 1

    @property
    def noisy(self) -> bool:
        """Whether there are inner weights, with noise on them."""
        return self.depth > 2 and self.init.noise > 0

    @property
    def replicate_of(self) -> list[int]:
        """The replicate of each of the stacked networks: the unions of all come before their sets."""
        of_sets = [r for r in range(self.replicates) for _ in range(self.sets)]
        return [*range(self.replicates), *of_sets] if self.union else of_sets


@base("architecture")
class Architecture(ABC):
    """Which arrays a network has, and how they are connected.

    Attributes:
        neurons: whether it takes other neurons than ``neuron=bias``.
        operations: whether it takes other local operations than ``operation=product``.
        unions: whether its limit consists of the union of the particle sets and the sets, not of the sets alone.
        scalings: whether it takes other scalings than ``scaling=mean_field``.
        taped: whether a step of a small network may be recorded and replayed.
        layer_kernels: whether ``evaluation.kernels`` can be taken of its layers.
        precisions: values of ``precision=`` that it takes.
        kind: what its layers are called in a message.
    """

    neurons: ClassVar[bool] = False
    operations: ClassVar[bool] = False
    scalings: ClassVar[bool] = False
    unions: ClassVar[bool] = False
    taped: ClassVar[bool] = False
    layer_kernels: ClassVar[bool] = False
    precisions: ClassVar[tuple[str, ...]] = ("float32", "tf32", "bf16")
    kind: ClassVar[str] = "layers"

    @property
    def has_limit(self) -> bool:
        """Whether it says how to draw the network of n = infinity."""
        return type(self).limit is not Architecture.limit

    @abstractmethod
    def widths(self, n: int, depth: int) -> list[int]:
        """n_1 .. n_L of a network of width n.

        Raises:
            ConfigError: the architecture does not fit the depth, or leaves a layer without neurons.
        """

    def held(self, blueprint: Blueprint) -> list[int]:
        """The neurons that the layers of a finite network hold: n_1 .. n_L, or N_1 .. N_L that stand for as many."""
        sizes = list(self.widths(blueprint.size, blueprint.depth))
        if blueprint.stood_for:
            asked = ((blueprint.stand_in.first, 0), (blueprint.stand_in.last, -1))
            # Of two layers the one hidden layer is both, and the larger number comes last.
            for count, l in sorted((count, l) for count, l in asked if count):
                sizes[l] = self.widths(count, blueprint.depth)[l]
        return sizes

    def lumped(self, blueprint: Blueprint) -> list[float]:
        """How many real neurons each of those that layers 1 .. L of a finite network hold stands for."""
        real = self.widths(int(blueprint.width), blueprint.depth)
        return [n / N for n, N in zip(real, self.held(blueprint), strict=True)]

    @abstractmethod
    def finite(self, blueprint: Blueprint) -> Network:
        """A network of finite width at step 0."""

    def limit(self, blueprint: Blueprint) -> Network:
        """The network of n = infinity at step 0."""
        raise NotImplementedError

    def stand_in(self, blueprint: Blueprint) -> Network:
        """The network of ``blueprint.size`` neurons that stands for one of ``blueprint.width`` at step 0."""
        raise NotImplementedError

    def perturbed(self, blueprint: Blueprint) -> Network:
        """A group of perturbed limits at step 0."""
        raise NotImplementedError

    def receptive(self, x: Tensor, blueprint: Blueprint) -> Tensor:
        """What neurons of layer 1 see of inputs (samples, d): (rows, weights of a neuron); by default all of each."""
        return x

    def rates(self, depth: int) -> list[float]:
        """Factors of the learning rates of the L + 1 layers; by default ones."""
        return [1.0] * depth

    def draw(self, blueprint: Blueprint) -> Network:
        """A network of any width at step 0."""
        if blueprint.perturbed:
            return self.perturbed(blueprint)
        if blueprint.infinite:
            return self.limit(blueprint)
        return self.stand_in(blueprint) if blueprint.stood_for else self.finite(blueprint)

    def accept(self, blueprint: Blueprint, names: Mapping[str, str]) -> None:
        """Refuse what this architecture does not do, before anything is drawn.

        Args:
            blueprint: what it would be drawn from.
            names: what the configuration calls its ``architecture``, ``neuron``, ``operation``, ``scaling`` and
                ``precision``, for the messages.

        Raises:
            ConfigError: a component, a width, a depth or data that it does not take.
        """
        name = names["architecture"]
        for key, default, taken in (("neuron", "bias", self.neurons), ("operation", "product", self.operations)):
            if names[key] != default and not taken:
                raise ConfigError(key, names[key], f"is for dense layers; {name} takes {default}")
        if not blueprint.scaling.is_mean_field and not self.scalings:
            raise ConfigError("scaling", names["scaling"], f"is for dense layers; {name} ones take mean_field")
        if names["precision"] not in self.precisions:
            why = f"is for dense networks; {self.kind} take {' or '.join(self.precisions)}"
            raise ConfigError("precision", names["precision"], why)
        if not blueprint.infinite:
            self.held(blueprint)
            if blueprint.stood_for:
                self._accept_stand_in(blueprint, names)
        elif blueprint.perturbed:
            self._accept_perturbed(blueprint, names)
        elif not self.has_limit:
            why = f"architecture={name} does not say how to draw its limit; a width is a whole number"
            raise ConfigError("width", "inf", why)

    def _accept_stand_in(self, blueprint: Blueprint, names: Mapping[str, str]) -> None:
        """Raises ConfigError where N neurons cannot stand for the width."""
        why = "cannot stand for a larger width with {}; null trains real networks only"
        if type(self).stand_in is Architecture.stand_in:
            said = f"architecture={names['architecture']}, which does not say how"
            raise ConfigError("neurons", blueprint.neurons, why.format(said))
        if not blueprint.operation.linear:
            said = f"operation={names['operation']}, where more than the sum of the noise counts"
            raise ConfigError("neurons", blueprint.neurons, why.format(said))
        if not blueprint.scaling.is_mean_field:
            raise ConfigError("neurons", blueprint.neurons, why.format(f"scaling={names['scaling']}, but mean_field"))
        sizes = self.held(blueprint)
        if blueprint.copies == 2 and any(N % 2 for N in sizes):
            said = f"mirrored copies need an even number in each layer, not {', '.join(map(str, sizes))}"
            for key in ("first", "last"):
                count = getattr(blueprint.stand_in, key)
                if count is not None and count % 2:
                    raise ConfigError(f"stand_in.{key}", count, said)
            raise ConfigError("neurons", blueprint.neurons, said)
        lumped = self.lumped(blueprint)
        if not blueprint.stand_in.mirrored and max(lumped) > 1.01 * min(lumped):
            widths = self.widths(int(blueprint.width), blueprint.depth)
            said = f"layers of {sizes} neurons for {widths} need copies: one noise cannot have two variances"
            raise ConfigError("stand_in.mirrored", False, said)
        if not blueprint.stand_in.mirrored and blueprint.stand_in.measure == "sampled" and blueprint.noisy:
            said = "needs stand_in.measure=spread or drawn: one noise cannot have the variance of every neuron's count"
            raise ConfigError("stand_in.mirrored", False, said)

    def _accept_perturbed(self, blueprint: Blueprint, names: Mapping[str, str]) -> None:
        """Raises ConfigError where nothing is known of the fluctuations."""
        if type(self).perturbed is Architecture.perturbed:
            why = "is not predicted: it does not say how to draw perturbed limits"
            raise ConfigError("architecture", names["architecture"], why)
        if not blueprint.operation.linear:
            why = "is not predicted: more than the sum of the noise counts there"
            raise ConfigError("operation", names["operation"], why)

    def multiplications(self, blueprint: Blueprint) -> float:
        """Products of a weight and a number that one sample costs in all networks of a replicate; by default those of
        fully-connected layers."""
        hidden = self.widths(blueprint.particles.first, blueprint.depth) if blueprint.infinite else self.held(blueprint)
        return sum(j * k for j, k in itertools.pairwise([blueprint.d, *hidden, blueprint.n_out]))

    def products(self, blueprint: Blueprint, precision: str) -> Products:
        """How the matrices of its networks are multiplied; torch is set up for it."""
        limit = blueprint.predict.first if blueprint.perturbed else blueprint.particles.first
        largest = limit if blueprint.infinite else blueprint.size
        return arrange(precision, blueprint.device, largest)
