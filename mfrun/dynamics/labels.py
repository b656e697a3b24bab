"""Whether the neurons of a layer differ: how many types it has in effect, and what a finite width sees of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mfrun.dynamics.experiment import Experiment
from mfrun.networks.dense import Dense
from mfrun.networks.network import Network
from mfrun.networks.particles import Particles
from mfrun.seeds import generator

# Particles that tell how large the labels' part is, to some per cent.
FEW = Particles(first=1024, inner=512, last=512, sets=2)
SAMPLES = 200


def limit_of(experiment: Experiment) -> Network | None:
    """The limit of an experiment's law at step 0, by few particles; None where it has none."""
    architecture, blueprint = experiment.architecture, experiment.blueprint
    if not blueprint.scaling.is_mean_field or not architecture.has_limit:
        return None
    limit = replace(blueprint, width=math.inf, replicates=1, neurons=None, particles=FEW)
    network = architecture.draw(limit)
    network.products = experiment.products
    return network


def samples_of(experiment: Experiment) -> Tensor:
    """Some inputs (samples, d) of the last split."""
    x, _ = next(iter(list(experiment.problem.evaluation(experiment.cfg.seed.eval, SAMPLES).values())[-1]))
    return x


def effective_types(network: Network, x: Tensor) -> list[float]:
    """For each hidden layer the participation ratio of its outputs over the neurons, averaged over the networks.

    With a_j the vector of neuron j's outputs at the samples and M = E_p[a_j a_j^T], it is tr(M)^2 / tr(M^2): 1 where
    all neurons do the same up to a factor, k where k orthogonal kinds do equally much.

    Args:
        network: of any width.
        x: inputs (samples, d).
    """
    part = network.parts[0]
    # A backward pass may follow, so that the layers keep what they hold.
    ws = part.workspace(len(x), backward=True)
    part.forward(x, ws)
    found = []
    for l, neurons in enumerate(part.widths, 1):
        a = ws.a[l - 1].reshape(part.replicates, neurons, -1).double()
        weighed = a * part.probabilities(l).to(a.device).sqrt().unsqueeze(-1)
        # The smaller of the two Gram matrices has the same traces.
        gram = weighed.mT @ weighed if a.shape[-1] <= neurons else weighed @ weighed.mT
        found.append(float(participation_ratio(gram).mean()))
    return found


def participation_ratio(gram: Tensor) -> Tensor:
    """tr(G)^2 / tr(G^2) of symmetric matrices (..., k, k)."""
    return gram.diagonal(dim1=-2, dim2=-1).sum(-1) ** 2 / gram.square().sum((-2, -1))


@dataclass(frozen=True)
class Labels:
    """How the neurons of a layer differ at the start.

    Attributes:
        layer: l = 2 .. L.
        signal: deviation of h_l over the neurons in the limit, root mean square over samples.
        noise: what sampling the neurons below adds to it in a network of width n, times sqrt(n).
    """

    layer: int
    signal: float
    noise: float

    def needed(self) -> float:
        """The width from which the signal is larger than the noise; infinite where there is none."""
        return math.inf if self.signal == 0 else (self.noise / self.signal) ** 2


def labels(experiment: Experiment, limit: Network | None) -> list[Labels]:
    """Signal and sampling noise of every layer whose weights depend on labels; none for other laws and networks.

    A neuron j differs from the others of its layer by sum_i p_i (W_ji - mean over j) a_i(x). In a network of width n
    that sum is over n draws of the neurons below, and off by the deviation of its terms over sqrt(n). Where that is
    larger, the network does not see that its limit's neurons differ. The particles of this limit are draws as well:
    the signal is what two halves of those below agree on.

    Args:
        experiment: of any width.
        limit: its :func:`limit_of`.
    """
    init, network = experiment.blueprint.init, limit
    if not init.labelled or not experiment.blueprint.operation.linear or not isinstance(network, Dense):
        return []
    x = samples_of(experiment)
    ws = network.workspace(len(x), backward=True)
    network.forward(x, ws)
    found = []
    for l in range(2, len(network.widths) + 1):
        W = network.W[l - 1][0].double()
        a = ws.a[l - 2].view(network.replicates, -1, len(x))[0].double()
        above, below = (network.probabilities(k)[0].to(W) for k in (l, l - 1))
        # W_ji - mean over j, and p_i a_i.
        apart, pa = W - above @ W, below[:, None] * a
        order = torch.randperm(len(a), generator=generator("halves", l)).to(a.device)
        one, other = (2 * apart[:, half] @ pa[half] for half in (order[::2], order[1::2]))
        terms = above @ (apart.square() @ (pa * a)) - above @ (apart @ pa).square()
        noise = terms + init.noise**2 * (below @ a.square())
        signal = float((above @ (one * other)).mean())
        found.append(Labels(l, math.sqrt(max(signal, 0.0)), math.sqrt(float(noise.mean()))))
    return found
