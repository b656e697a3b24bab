"""What the hidden layers do, as kernels at fixed samples: E_p[a_l(x) a_l(x')] and E_p[D_l(x) D_l(x')]."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mfrun.dynamics.evaluate import Evaluator, of_sets
from mfrun.dynamics.experiment import Experiment
from mfrun.dynamics.labels import participation_ratio
from mfrun.networks.network import Network
from mfrun.problems.tasks import Task


@dataclass(frozen=True)
class Kernels:
    """Kernels of S networks, float64, on the CPU.

    Attributes:
        features: (S, L, P, P), E_p[a_l(x) a_l(x')] over the neurons of layer l, L hidden layers, P samples.
        gradients: (S, L, P, P), E_p[D_l(x) D_l(x')], D_l the backward signal of the loss of each sample (Section 3.1).
    """

    features: Tensor
    gradients: Tensor


class Measured:
    """Measures kernels at the first P samples of the last split.

    Args:
        experiment: of the run.
        evaluator: of the run, whose samples these are.
        count: P, or the split's size where that is smaller.
    """

    def __init__(self, experiment: Experiment, evaluator: Evaluator, count: int) -> None:
        self.x, self.y = list(evaluator.sets.values())[-1].first(count)
        self.loss, self.depth = experiment.loss, experiment.cfg.depth
        if experiment.problem.task is Task.CLASSES:
            labels = torch.nn.functional.one_hot(self.y, experiment.problem.n_out).double()
        else:
            labels = self.y.T.double()
        self.labels = labels.cpu()
        self._target = _centred(self.labels @ self.labels.T)

    def __call__(self, network: Network) -> Kernels:
        """Those of all stacked networks; their weights stay as they are."""
        found = [self._of(part) for part in network.parts]
        return Kernels(torch.cat([k.features for k in found]), torch.cat([k.gradients for k in found]))

    def _of(self, part: Network) -> Kernels:
        ws, S, P = part.workspace(len(self.x)), part.replicates, len(self.x)
        yhat = part.forward(self.x, ws)
        # Passes write into one memory: a layer's outputs are taken before the backward pass comes.
        features = [self._kernel(part, l, a.view(S, -1, P)) for l, a in enumerate(ws.a[: len(part.widths)], 1)]
        # A step of length 0 leaves every D_l behind, and the weights where they are.
        part.descend(self.x, self.loss.gradient(self.y, yhat), [0.0] * self.depth, ws)
        gradients = [self._kernel(part, l, D.view(S, -1, P)) for l, D in enumerate(ws.D[: len(part.widths)], 1)]
        return Kernels(torch.stack(features, 1), torch.stack(gradients, 1))

    @staticmethod
    def _kernel(part: Network, l: int, values: Tensor) -> Tensor:
        values = values.double().cpu()
        return values.mT @ (part.probabilities(l).unsqueeze(-1) * values)

    def columns(self, kernels: Kernels) -> dict[str, list[float]]:
        """Metrics of the feature kernels K_l of each network.

        ``alignment_l``: centred alignment with the labels' kernel, at most 1. ``types_l``: tr(K_l)^2 / tr(K_l^2), the
        effective number of types of the neurons (:func:`mfrun.dynamics.labels.effective_types`), at most P.
        """
        alignment, types = {}, {}
        for l, K in enumerate(kernels.features.unbind(1), 1):
            types[f"types_{l}"] = participation_ratio(K).tolist()
            K = _centred(K)
            values = (K * self._target).sum((-2, -1)) / (K.square().sum((-2, -1)).sqrt() * self._target.norm())
            alignment[f"alignment_{l}"] = values.tolist()
        return alignment | types


def _centred(K: Tensor) -> Tensor:
    K = K - K.mean(-1, keepdim=True)
    return K - K.mean(-2, keepdim=True)


def at_infinity(kernels: Kernels, experiment: Experiment) -> dict[str, Tensor]:
    """The kernels of each replicate, (replicates, L, P, P), with those of the bars where there are particle sets."""
    found = {}
    for name in ("features", "gradients"):
        value, bar = of_sets(getattr(kernels, name), experiment.sets, experiment.blueprint.union)
        found[name] = value
        if bar is not None:
            found[f"{name}_bar"] = bar
    return found
