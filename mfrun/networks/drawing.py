"""How neurons are drawn and weighed: n of them for a network of width n, one for each type at n = infinity.

Both ask the initial law (:mod:`mfrun.networks.init`) what neurons are at step 0, for any kind of layers. They differ in
nothing else:

    finite   n_l i.i.d. draws of a neuron's coordinates, i.i.d. noise on the inner weights, the uniform measure
    limit    quadrature nodes or particles of the same coordinates, no noise, the weights of the quadrature
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from mfrun.networks.architecture import Architecture, Blueprint
from mfrun.networks.init import ARRAYS, Layers
from mfrun.networks.measures import Measure
from mfrun.networks.network import Network
from mfrun.seeds import generator


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


class AnyWidth(Architecture):
    """An architecture whose networks are drawn alike at every width, from the shapes of their layers."""

    @abstractmethod
    def layers_of(self, blueprint: Blueprint) -> Layers:
        """The shapes of the weights between two neurons."""

    @abstractmethod
    def network(self, drawn: Drawn, blueprint: Blueprint) -> Network:
        """The network that has the arrays."""

    def finite(self, blueprint: Blueprint) -> Network:
        widths = self.widths(int(blueprint.width), blueprint.depth)
        return self.network(finite(blueprint, self.layers_of(blueprint), widths), blueprint)

    def limit(self, blueprint: Blueprint) -> Network:
        return self.network(limit(blueprint, self.layers_of(blueprint)), blueprint)


def finite(blueprint: Blueprint, layers: Layers, widths: list[int]) -> Drawn:
    """I.i.d. neurons and, under the mean field scaling, the uniform measure.

    The width is a part of every stream's key: widths of one seed are independent, as an average over seeds assumes.

    Args:
        blueprint: what to draw from.
        layers: the shapes of the weights between two neurons.
        widths: n_1 .. n_L.
    """
    init, neuron, seed, n = blueprint.init, blueprint.neuron, blueprint.seed, int(blueprint.width)
    f, S, L = blueprint.scaling.factors(widths), blueprint.replicates, layers.L
    neurons, below = [*widths, layers.n_out], [layers.inputs, *widths]
    streams = [[generator("initial weights", seed, n, r, l) for l in range(L + 1)] for r in range(S)]
    labels: list[list[Tensor | None]] = [[] for _ in range(S)]

    def weights(l: int) -> Tensor:
        """W_{l+1} of all replicates; one array at a time is held in float64."""
        shape = (neurons[l], below[l], *layers.kernels[l])
        array = torch.empty((S, *shape), dtype=blueprint.dtype, device=blueprint.device)
        if array.is_meta:  # Shapes are all that is asked for.
            return array
        for r in range(S):
            one = init.entries.sample(shape, streams[r][l])
            if l < L:
                labels[r].append(_labels(blueprint, layers, r, l + 1, widths[l], one))
            if l == 0:
                one = init.first(one, layers.fan_in, f.deviations[l])
            elif l == L:
                one = init.output(one, f.deviations[l])
            else:
                mean = init.inner(l + 1, labels[r][l], labels[r][l - 1])
                if isinstance(mean, Tensor):
                    mean = mean.view(*mean.shape, *([1] * len(layers.kernels[l])))
                one = one.mul_(init.noise * f.deviations[l]).add_(mean)
            array[r] = one.div_(f.units[l])
        return array

    def biases(l: int) -> Tensor:
        # The output's is the average of theta_3 over the n_L neurons of the last layer (Eq. 38).
        shape = (neurons[l], widths[-1] if l == L else 1)
        draws = torch.stack([init.entries.sample(shape, streams[r][l]).mean(1) for r in range(S)])
        return init.bias(draws, f.bias_deviations[l]).mul_(f.bias_units[l])

    def theta(l: int) -> Tensor:
        shape = (widths[l], len(neuron.means))
        own = [generator("initial theta", seed, n, r, l) for r in range(S)]
        return neuron.initial(torch.stack([init.entries.sample(shape, g) for g in own]))

    W = [weights(l) for l in range(L + 1)]
    b = [biases(l) for l in range(L + 1)]
    drawn = Drawn(W, b, [Measure(scale) for scale in f.p], [theta(l) for l in range(L)])
    return drawn.to(blueprint.dtype, blueprint.device)


def _labels(blueprint: Blueprint, layers: Layers, r: int, l: int, neurons: int, w: Tensor) -> Tensor | None:
    """The labels of the neurons of layer l of replicate r, whose weights (of layer 1) have been drawn."""
    init, key = blueprint.init, (blueprint.seed, int(blueprint.width), r, l)
    counts = init.coordinates(l, layers, blueprint.neuron)
    x = {"w": w.flatten(1)} if l == 1 else {}
    for i, (name, count) in enumerate((k, c) for k, c in counts.items() if k not in ARRAYS):
        x[name] = init.entries.sample((neurons, count), generator("initial labels", *key, i))
    return init.labels(l, x)


def limit(blueprint: Blueprint, layers: Layers) -> Drawn:
    """One neuron for each type, and the conditional mean of every inner weight (Section 3.2 at t = 0).

    A neuron of layer l >= 2 enters the formal system only through its theta and f_l, the conditional mean of its
    incoming weights (Eq. 27). Neurons that start with one (theta, f) stay equal for ever, so a layer needs one neuron
    for each initial value of what tells its neurons apart: the coordinates of the initial law. With i.i.d. weights f_l
    is the constant mu2 at the start, and these are particles of (w, bias) in layer 1, bias types in the inner layers (a
    single neuron where tau3 = 0) and types of (bias, beta) in layer L; the components of another neuron's theta join
    the bias where they have a deviation. Filters of a convolution, whose kernels are vectors of weights where a neuron
    has single ones, are drawn alike: convolution, activation and pooling act on each of them alike.

    Where sigma* is not linear in w, the mean says too little: quadrature nodes of w's initial law take its place.

    Args:
        blueprint: what to draw from.
        layers: the shapes of the weights between two neurons.
    """
    init, neuron, particles = blueprint.init, blueprint.neuron, blueprint.particles
    L, stack, meta = layers.L, blueprint.replicates * particles.sets, blueprint.device.type == "meta"
    names = [init.coordinates(l, layers, neuron) for l in range(1, L + 1)]
    types = [
        particles.types(init.entries, sum(counts.values()), stack, (blueprint.seed, l), first=l == 0, meta=meta)
        for l, counts in enumerate(names)
    ]
    coordinates = [
        dict(zip(counts, torch.split(t.nodes, list(counts.values()), -1), strict=True)) if counts else {}
        for t, counts in zip(types, names, strict=True)
    ]

    def given(l: int, name: str, wanted: int) -> Tensor:
        """A copy of coordinates (stack, K_{l+1}, wanted); zeros for those without a spread."""
        found = coordinates[l].get(name)
        return types[l].nodes.new_zeros((stack, types[l].count, wanted)) if found is None else found.clone()

    def theta(l: int) -> Tensor:
        z = types[l].nodes.new_zeros((stack, types[l].count, len(neuron.means)))
        if neuron.spread:
            z[..., neuron.spread] = coordinates[l]["theta"]
        return neuron.initial(z)

    # One node, the mean, where that says all.
    several = int(not blueprint.operation.linear and init.noise > 0)
    w_law = particles.types(init.entries, several, stack, (blueprint.seed, L + 1), first=False)
    nodes = w_law.nodes.sum(-1).to(types[0].nodes.device) * init.noise

    def inner(l: int) -> Tensor:
        """W_{l+1}: the nodes around the conditional mean of each pair of types."""
        labels = [init.labels(k + 1, coordinates[k]) for k in (l, l - 1)]
        W = nodes[:, None, None, :] + _column(init.inner(l + 1, *labels))
        W = W.expand(stack, types[l].count, types[l - 1].count, -1).flatten(-2)
        kernel = layers.kernels[l]
        return W.view(*W.shape, *([1] * len(kernel))).expand(*W.shape, *kernel)

    w = init.first(given(0, "w", layers.fan_in), layers.fan_in)
    beta = init.output(given(L - 1, "beta", layers.betas))
    W = [torch.unflatten(w, -1, (layers.inputs, *layers.kernels[0])), *(inner(l) for l in range(1, L))]
    W.append(torch.unflatten(beta, -1, (layers.n_out, *layers.kernels[-1])).movedim(2, 1))
    b = [init.bias(given(l, "bias", 1))[..., 0] for l in range(L)]
    b.append(init.bias(types[0].nodes.new_zeros((stack, layers.n_out))))
    omega = None
    if w_law.count > 1:
        omega = nodes.new_full(nodes.shape, 1 / w_law.count) if w_law.weights is None else w_law.weights
    drawn = Drawn(W, b, [t.measure() for t in types], [theta(l) for l in range(L)], omega)
    return drawn.to(blueprint.dtype, blueprint.device)


def _column(mean: Tensor | float) -> Tensor | float:
    """A conditional mean beside an axis for the nodes."""
    return mean.unsqueeze(-1) if isinstance(mean, Tensor) else mean
