"""The neurons of n = infinity: one for each type, weighed by a quadrature rule."""

from __future__ import annotations

import torch
from torch import Tensor

from mfrun.networks.architecture import Blueprint
from mfrun.networks.drawn import Drawn, Typed, beside, names_of
from mfrun.networks.init import Layers
from mfrun.networks.particles import Types, on_a_grid, roles


def discretised(blueprint: Blueprint, layers: Layers) -> list[Types]:
    """The types of layers 1 .. L, a discretisation for each particle set, and after them those of an inner weight.

    Args:
        blueprint: what to draw from.
        layers: the shapes of the weights between two neurons.
    """
    init, particles = blueprint.init, blueprint.particles
    stack, meta = blueprint.replicates * particles.sets, blueprint.device.type == "meta"
    named = roles(layers.L)
    types = [
        particles.types(init.entries, sum(counts.values()), stack, (blueprint.seed, l), layer=named[l], meta=meta)
        for l, counts in enumerate(names_of(blueprint, layers))
    ]
    # One node, the mean, where that says all.
    several = int(not blueprint.operation.linear and init.noise > 0)
    return [*types, particles.types(init.entries, several, stack, (blueprint.seed, layers.L + 1), layer="last")]


def in_particles(blueprint: Blueprint, layers: Layers) -> set[str]:
    """Which of ``particles.first``, ``inner`` and ``last`` tell how many types a layer has; others have nodes of a
    quadrature rule, or one type.

    Args:
        blueprint: what to draw from.
        layers: the shapes of the weights between two neurons.
    """
    coordinates = [sum(counts.values()) for counts in names_of(blueprint, layers)]
    return {name for name, m in zip(roles(layers.L), coordinates, strict=True) if m > on_a_grid(name)}


def limit(blueprint: Blueprint, layers: Layers, discretisation: list[Types]) -> Drawn:
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
        discretisation: of :func:`discretised`, or its sets taken together.
    """
    init, L = blueprint.init, layers.L
    *types, w_law = discretisation
    stack = len(types[0].nodes)
    typed = Typed(blueprint, layers, [t.nodes for t in types])
    nodes = w_law.nodes.sum(-1).mul_(init.noise).to(types[0].nodes.device)

    def inner(l: int) -> Tensor:
        """W_{l+1}: the nodes around the conditional mean of each pair of types."""
        W = _sum(nodes[:, None, None, :], beside(typed.inner(l), 1))
        W = W.expand(stack, types[l].count, types[l - 1].count, -1).flatten(-2)
        kernel = layers.kernels[l]
        return W[(..., *[None] * len(kernel))].expand(*W.shape, *kernel)

    W = [typed.first(), *(inner(l) for l in range(1, L)), typed.output()]
    b = [*(typed.bias(l) for l in range(L)), init.bias(types[0].nodes.new_zeros((stack, layers.n_out)))]
    omega = None
    if w_law.count > 1:
        omega = nodes.new_full(nodes.shape, 1 / w_law.count) if w_law.weights is None else w_law.weights
    drawn = Drawn(W, b, [t.measure() for t in types], [typed.theta(l) for l in range(L)], omega)
    return drawn.to(blueprint.dtype, blueprint.device)


def _sum(a: Tensor, b: Tensor | float) -> Tensor:
    """a + b.

    On the device meta torch takes a second to import its compiler for an operation that does not write into an array.
    """
    if isinstance(b, Tensor):
        a = a.expand(torch.broadcast_shapes(a.shape, b.shape))  # type: ignore[no-untyped-call]
    return a.clone().add_(b)
