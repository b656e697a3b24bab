"""``build``: a network of width n, or of n = infinity. The two differ in how the neurons are drawn, nowhere else."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mfrun.errors import ConfigError
from mfrun.networks import cnn  # noqa: F401 (makes the architecture known)
from mfrun.networks.activations import Activation
from mfrun.networks.dense import Dense
from mfrun.networks.laws import Law
from mfrun.networks.measures import Measure
from mfrun.networks.neurons import Bias, Neuron
from mfrun.networks.operations import Operation, Product
from mfrun.networks.particles import Particles
from mfrun.networks.scaling import MeanField, Scaling
from mfrun.registry import register
from mfrun.seeds import generator


@register("architecture", "dense")
@dataclass
class DenseArchitecture:
    """Fully-connected layers (Section 3.1).

    Attributes:
        ratios: n_l / n for each hidden layer; empty for n_1 = ... = n_L = n.
        biases: False for the network of Section 2.1.
    """

    ratios: list[float] = field(default_factory=list)
    biases: bool = True

    def __post_init__(self) -> None:
        if any(not (math.isfinite(r) and r > 0) for r in self.ratios):
            raise ConfigError("ratios", self.ratios, "every ratio n_l / n must be positive")

    def widths(self, n: int, depth: int) -> list[int]:
        """n_1 .. n_L of a finite network.

        Raises:
            ConfigError: a ratio is missing, or leaves a layer without neurons.
        """
        self.check(depth)
        widths = [round(n * r) for r in self.ratios] if self.ratios else [n] * (depth - 1)
        if min(widths) < 1:
            raise ConfigError("architecture.ratios", self.ratios, f"leaves a layer without neurons at width={n}")
        return widths

    def multiplications(self, width: float, depth: int, data: tuple[int, int], particles: Particles) -> float:
        """Weights that one sample meets on its way through; ``data`` is (d, n_out)."""
        if math.isinf(width):
            # The other layers are small beside the particles of the first one, whose number counts all sets.
            return particles.first * (data[0] + data[1])
        sizes = [data[0], *self.widths(int(width), depth), data[1]]
        return sum(j * k for j, k in itertools.pairwise(sizes))

    def check(self, depth: int) -> None:
        """Raises ConfigError where the number of ratios does not fit the depth."""
        if self.ratios and len(self.ratios) != depth - 1:
            raise ConfigError(
                "architecture.ratios", self.ratios, f"depth={depth} has {depth - 1} hidden layers and needs as many"
            )


@dataclass
class Init:
    """Initial law of Section 4.2.1.

    (W_1)_ij ~ (0, tau1^2 / d);  (W_l)_ij and beta ~ (mu2, tau2^2);  biases ~ (mu3, tau3^2): mean, variance. A scaling
    other than the mean field one makes the deviations powers of n.
    """

    law: Law
    tau1: float
    mu2: float
    tau2: float
    mu3: float
    tau3: float


def build(
    architecture: DenseArchitecture,
    activation: Activation,
    init: Init,
    *,
    width: float,
    depth: int,
    d: int,
    n_out: int,
    seed: int = 0,
    replicates: int = 1,
    particles: Particles | None = None,
    scaling: Scaling | None = None,
    neuron: Neuron | None = None,
    operation: Operation | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Dense:
    """Draw a network at step 0.

    Args:
        architecture: the layers' shapes.
        activation: sigma.
        init: the initial law.
        width: n, or ``math.inf`` for the mean field limit.
        depth: number of layers, L + 1.
        d: input dimension.
        n_out: number of outputs.
        seed: of the initialisation; replicate r of a given width is the same however many there are.
        replicates: S, how many independent initialisations are stacked. At n = infinity each of them consists of
            ``particles.sets`` independent particle sets, so that the stack has S * sets members.
        particles: the discretisation of n = infinity; ignored for finite widths.
        scaling: the mean field one by default; n = infinity has no other, nor have other neurons and operations than
            the default ones.
        neuron: sigma_l(theta, h), by default sigma(h + b).
        operation: sigma*(w, a), by default w a.
        dtype: of the weights. Draws are made in float64, so that precisions start from the same network.
        device: where the network lives. Draws are made on the CPU, so that devices start from the same network.

    Raises:
        ConfigError: the architecture does not fit the depth or width.
    """
    neuron, operation = neuron or Bias(), operation or Product()
    if math.isinf(width):
        architecture.check(depth)
        particles = particles or Particles()
        stack = replicates * particles.sets
        drawn = _limit(architecture, init, depth, d, n_out, seed, stack, particles, neuron, operation)
    else:
        shape = (architecture.widths(int(width), depth), d, n_out)
        drawn = _finite(shape, init, int(width), seed, replicates, scaling or MeanField(), neuron, dtype, device)

    def ready(array: Tensor) -> Tensor:
        return array.to(dtype=dtype, device=device).contiguous()

    plain = isinstance(neuron, Bias)
    return Dense(
        [ready(w) for w in drawn.W],
        [ready(v) for v in drawn.b] if architecture.biases else None,
        [Measure(m.scale, None if m.weights is None else ready(m.weights)) for m in drawn.p],
        activation,
        theta=None if plain else [ready(t) for t in drawn.theta],
        neuron=None if plain else neuron,
        operation=operation,
        omega=None if drawn.omega is None else ready(drawn.omega),
    )


@dataclass
class _Drawn:
    """A network at step 0; the arrays are those of :class:`Dense`, theta with q = 0 for the default neuron."""

    W: list[Tensor]
    b: list[Tensor]
    p: list[Measure]
    theta: list[Tensor]
    omega: Tensor | None = None


def _finite(
    shape: tuple[list[int], int, int],
    init: Init,
    n: int,
    seed: int,
    replicates: int,
    scaling: Scaling,
    neuron: Neuron,
    dtype: torch.dtype,
    device: torch.device | str,
) -> _Drawn:
    """I.i.d. weights and, under the mean field scaling, the uniform measure; ``shape`` is (n_1 .. n_L, d, n_out)."""
    widths, d, n_out = shape
    depth = len(widths) + 1
    f = scaling.factors(widths)
    shapes = list(zip([*widths, n_out], [d, *widths], strict=True))

    # The width is in the key: widths of one seed are independent, as an average over seeds assumes.
    streams = [[generator("initial weights", seed, n, r, layer) for layer in range(depth)] for r in range(replicates)]
    taus = [init.tau1 / math.sqrt(d)] + [init.tau2] * (depth - 1)
    means = [0.0] + [init.mu2] * (depth - 1)

    def drawn(layer: int, shape: tuple[int, int]) -> Tensor:
        # One array at a time is held in float64.
        array = torch.empty((replicates, *shape), dtype=dtype, device=device)
        for r in range(replicates):
            one = init.law.sample(shape, streams[r][layer])
            array[r] = one.mul_(taus[layer] * f.deviations[layer]).add_(means[layer]).div_(f.units[layer])
        return array

    W = [drawn(layer, shape) for layer, shape in enumerate(shapes)]
    b = []
    for layer, (k, deviation, unit) in enumerate(zip([*widths, n_out], f.bias_deviations, f.bias_units, strict=True)):
        # The output's is the average of theta_3 over the n_L neurons of the last layer (Eq. 38).
        averaged = widths[-1] if layer == depth - 1 else 1
        some = torch.stack([init.law.sample((k, averaged), s[layer]).mean(1, keepdim=True) for s in streams])
        b.append(some.mul_(init.tau3 * deviation).add_(init.mu3).mul_(unit))

    def theta(l: int, k: int) -> Tensor:
        shape = (k, len(neuron.means))
        streams = [generator("initial theta", seed, n, r, l) for r in range(replicates)]
        return neuron.initial(torch.stack([init.law.sample(shape, g) for g in streams]))

    return _Drawn(W, b, [Measure(scale) for scale in f.p], [theta(l, k) for l, k in enumerate(widths)])


def _limit(
    architecture: DenseArchitecture,
    init: Init,
    depth: int,
    d: int,
    n_out: int,
    seed: int,
    stack: int,
    particles: Particles,
    neuron: Neuron,
    operation: Operation,
) -> _Drawn:
    """One neuron for each type, and the conditional mean mu2 of every inner weight (Section 3.2 at t = 0).

    A neuron of layer l >= 2 enters the formal system only through its theta and f_l, the conditional mean of its
    incoming weights (Eq. 27), which is the constant mu2 at the start. Neurons that start with one (theta, f) stay equal
    for ever, so a layer needs one neuron for each initial value of theta: bias types in the inner layers (a single
    neuron where tau3 = 0), types of (bias, beta) in layer L, and particles of (w, bias) in layer 1. The components of
    another neuron's theta join the bias where they have a deviation.

    Where sigma* is not linear in w, the mean says too little: quadrature nodes of w's initial law take its place.
    """
    L = depth - 1
    has_bias = architecture.biases and init.tau3 > 0
    bias = ["bias"] if has_bias else []
    beta = [f"beta{i}" for i in range(n_out)] if init.tau2 > 0 else []
    w = [f"w{j}" for j in range(d)] if init.tau1 > 0 else []

    # What tells the neurons of each layer apart at t = 0, as coordinates of mean 0 and variance 1.
    spread = [f"theta{k}" for k, deviation in enumerate(neuron.deviations) if deviation > 0]
    names = [bias + spread for _ in range(L)]
    names[0] = w + names[0]
    names[-1] = names[-1] + beta
    types = [particles.types(init.law, len(names[l]), stack, (seed, l), first=l == 0) for l in range(L)]

    def coordinates(l: int, wanted: list[str]) -> Tensor:
        """(stack, K_l, number wanted); zeros for coordinates with no spread."""
        columns = [names[l].index(c) if c in names[l] else None for c in wanted]
        x = types[l].nodes
        found = x.new_zeros((*x.shape[:-1], len(wanted)))
        for k, c in enumerate(columns):
            if c is not None:
                found[..., k] = x[..., c]
        return found

    W = [coordinates(0, [f"w{j}" for j in range(d)]) * (init.tau1 / math.sqrt(d))]
    # One node, the mean, where that says all.
    w_law = particles.types(init.law, int(not operation.linear and init.tau2 > 0), stack, (seed, depth), first=False)
    values = w_law.nodes.sum(-1) * init.tau2 + init.mu2
    for l in range(1, L):
        W.append(values.repeat(1, types[l - 1].count).unsqueeze(1).repeat(1, types[l].count, 1))
    W.append((coordinates(L - 1, [f"beta{i}" for i in range(n_out)]) * init.tau2 + init.mu2).mT)
    b = [coordinates(l, ["bias"]) * init.tau3 + init.mu3 for l in range(L)]
    b.append(torch.full((stack, n_out, 1), init.mu3, dtype=torch.float64))
    theta = [neuron.initial(coordinates(l, [f"theta{k}" for k in range(len(neuron.means))])) for l in range(L)]
    omega = values.new_full(values.shape, 1 / w_law.count) if w_law.weights is None else w_law.weights
    return _Drawn(W, b, [t.measure() for t in types], theta, omega if w_law.count > 1 else None)
