"""The two constructions of Appendix B, between finite networks and measures.

A particle system is a measure: its layer l has neurons of types i with probabilities p_l,i. Drawing n neurons of each
layer i.i.d. from p_l and keeping their mutual weights gives a finite network (B.2, :func:`subnetworks`). The other way,
a finite network is the particle system of its own empirical measure (B.1, :func:`empirical_measure`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mfrun.networks.dense import Dense
from mfrun.networks.measures import Measure
from mfrun.seeds import generator


def subnetworks(network: Dense, member: int, n: int, draws: int, seed: int, first: int = 0) -> Dense:
    """Finite networks drawn from a measure (Appendix B.2).

    Args:
        network: the whole.
        member: which of its replicates (or particle sets) to draw from.
        n: neurons in each hidden layer.
        draws: how many sub-networks, stacked.
        seed: of the draws.
        first: the number of the first of them, where more have been drawn with this seed.
    """
    chosen = []
    for l, neurons in enumerate(network.widths, 1):
        p = network.p[l].probabilities(neurons, member)
        g = generator("sub-networks", seed, n, l, first)
        chosen.append(torch.multinomial(p, draws * n, replacement=True, generator=g).view(draws, n))
    W = [network.W[0][member][chosen[0]]]
    for l in range(1, len(chosen)):
        W.append(network.W[l][member][chosen[l].unsqueeze(2), chosen[l - 1].unsqueeze(1)])
    W.append(network.W[-1][member][:, chosen[-1]].movedim(0, 1).contiguous())
    b = None
    if network.b is not None:
        b = [v[member][c] for v, c in zip(network.b, chosen, strict=False)]
        b.append(network.b[-1][member].expand(draws, -1, -1).contiguous())
    return Dense(W, b, [Measure.uniform(n)] * len(chosen), network.activation)


def empirical_measure(network: Dense, member: int) -> Dense:
    """A network as the particle system of its own empirical measure (Appendix B.1, behind Eq. 54), in float64.

    Neurons of layer 1 with equal (theta, w) are one type, and so are those of layer l >= 2 with equal (theta, f). f
    averages a neuron's incoming weights over the neurons of each type below; p counts a type's neurons. The expected
    loss is the network's own.

    Args:
        network: any network; copies of a neuron, as :func:`subnetworks` draws them, become one type.
        member: which of its replicates.

    Returns:
        One particle system.
    """
    L = len(network.widths)
    beta = network.W[-1][member].double()
    W: list[Tensor] = []
    b: list[Tensor] = []
    measures: list[Measure] = []
    # Of the layer below: the type of each neuron, and its share in the type's average.
    type_below, share = torch.empty(0), torch.empty(0)
    for l in range(L):
        f = network.W[l][member].double()
        if l > 0:
            f = f.new_zeros(len(f), W[-1].shape[1]).index_add_(1, type_below, f * share)
        theta = [] if network.b is None else [network.b[l][member].double()]
        theta += [beta.T] if l == L - 1 else []
        types, of = torch.unique(torch.cat([*theta, f], 1), dim=0, return_inverse=True)
        neuron = network.p[l + 1].probabilities(len(f), member).to(f)
        p = neuron.new_zeros(len(types)).index_add_(0, of, neuron)
        # What has no weight is seen by nobody.
        type_below, share = of, (neuron / p[of]).nan_to_num()
        columns = [v.shape[1] for v in theta]
        *thetas, f = types.split([*columns, f.shape[1]], 1)
        if network.b is not None:
            b.append(thetas[0].unsqueeze(0).contiguous())
        W.append(f.unsqueeze(0).contiguous())
        measures.append(Measure(1.0, p.view(1, -1, 1)))
    W.append(thetas[-1].T.unsqueeze(0).contiguous())
    if network.b is None:
        return Dense(W, None, measures, network.activation)
    return Dense(W, [*b, network.b[-1][member : member + 1].double()], measures, network.activation)


def in_float64(network: Dense, member: int) -> Dense:
    """One replicate of a network in float64, where rounding is far below any other difference."""

    def one(array: Tensor) -> Tensor:
        return array[member % len(array)].unsqueeze(0).double()

    b = None if network.b is None else [one(v) for v in network.b]
    measures = [Measure(m.scale, None if m.weights is None else one(m.weights)) for m in network.p[1:-1]]
    return Dense([one(w) for w in network.W], b, measures, network.activation)
