"""The neurons of a network of width n: n of them, drawn independently."""

from __future__ import annotations

import torch
from torch import Tensor

from mfrun.networks.architecture import Blueprint
from mfrun.networks.drawn import Drawn, beside, tied_to
from mfrun.networks.init import ARRAYS, Layers
from mfrun.networks.measures import Measure
from mfrun.seeds import generator


def finite(blueprint: Blueprint, layers: Layers, widths: list[int], lumped: float = 1.0) -> Drawn:
    """I.i.d. neurons and, under the mean field scaling, the uniform measure.

    The width is a part of every stream's key: widths of one seed are independent, as an average over seeds assumes.

    Args:
        blueprint: what to draw from.
        layers: the shapes of the weights between two neurons.
        widths: n_1 .. n_L.
        lumped: how many real neurons each of them stands for (:mod:`mfrun.networks.stand_in`), which share their noise.
    """
    init, neuron, seed, n = blueprint.init, blueprint.neuron, blueprint.seed, int(blueprint.width)
    f, S, L = blueprint.scaling.factors(widths), blueprint.replicates, layers.L
    neurons, below = [*widths, layers.n_out], [layers.inputs, *widths]
    # There shapes are all that is asked for.
    meta = blueprint.device.type == "meta"
    each = range(0 if meta else S)
    streams = [[generator("initial weights", seed, n, r, l) for l in range(L + 1)] for r in each]
    labels: list[list[Tensor | None]] = [[None] * L for _ in each]

    def tied(name: str, l: int, r: int) -> Tensor | None:
        """Coordinates (n_{l+1}, number) of replicate r that the labels decide."""
        label = labels[r][l]
        return None if label is None else tied_to(init, name, layers, label)

    def weights(l: int) -> Tensor:
        """W_{l+1} of all replicates; one array at a time is held in float64."""
        shape = (neurons[l], below[l], *layers.kernels[l])
        array = torch.empty((S, *shape), dtype=blueprint.dtype, device=blueprint.device)
        if meta:
            return array
        for r in range(S):
            one = init.entries.sample(shape, streams[r][l])
            if l < L:
                labels[r][l] = _labels(blueprint, layers, r, l + 1, widths[l], one)
            if l == 0:
                one = init.first(one, layers.fan_in, f.deviations[l])
            elif l == L:
                beta = tied("beta", l - 1, r)
                if beta is not None:
                    one = torch.unflatten(beta, -1, (layers.n_out, *layers.kernels[l])).movedim(1, 0).contiguous()
                one = init.output(one, f.deviations[l])
            else:
                mean = beside(init.inner(l + 1, labels[r][l], labels[r][l - 1]), len(layers.kernels[l]))
                one = one.mul_(init.noise * f.deviations[l] * lumped**-0.5).add_(mean)
            array[r] = one.div_(f.units[l])
        return array

    def biases(l: int) -> Tensor:
        if meta:
            return torch.empty((S, neurons[l]), device="meta")
        # The output's is the average of theta_3 over the n_L neurons of the last layer (Eq. 38).
        shape = (neurons[l], widths[-1] if l == L else 1)
        found = [tied("bias", l, r) if l < L else None for r in range(S)]
        own = [init.entries.sample(shape, streams[r][l]) if z is None else z for r, z in enumerate(found)]
        draws = torch.stack([z.mean(1) for z in own])
        if l == L:
            draws.mul_(lumped**-0.5)
        return init.bias(draws, f.bias_deviations[l]).mul_(f.bias_units[l])

    def theta(l: int) -> Tensor:
        shape = (widths[l], len(neuron.means))
        if meta:
            return torch.empty((S, *shape), device="meta")
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
