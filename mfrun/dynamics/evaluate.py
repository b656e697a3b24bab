"""Metrics of a network over fixed sets of samples.

Columns of metrics.csv:

    step, t, replicate         SGD step, time t = step * alpha, which of the independent initialisations
    SPLIT_loss, SPLIT_error    averages over the samples; SPLIT is train and test, or population for fresh samples
    SPLIT_NAME                 averages of the test functions phi(y, yhat) that the configuration names
    nonpositive_l              fraction of pre-activations of layer l that are <= 0, over the last split (Section 4.2.2)
    alignment_l, types_l       with evaluation.kernels: of layer l's kernel (:mod:`mfrun.dynamics.kernels`)
    METRIC_paired              perturbed limits only: the metric of the average output of a pair
    spread_l                   perturbed limits only: deviation of h_l over the neurons of layer l, at some samples
    METRIC_se                  standard error of that average, as one over samples drawn anew; a network of any width
                               is evaluated at the same samples, so gaps between widths are free of it
    METRIC_bar                 n = infinity only: half-width of the 95 % confidence interval over the particle sets
    METRIC_sets                the same, with their union: the mean of the sets, before their bias is taken out of it
    wall_seconds               training and evaluation time so far; the one column that differs when a run is repeated
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mfrun.blas import special
from mfrun.networks.network import Network
from mfrun.problems.losses import Loss
from mfrun.problems.problem import Evaluation
from mfrun.problems.tasks import Task

# yhat (S, n_out, B) and y -> (S, B)
Averaged = Callable[[Tensor, Tensor], Tensor]


class Evaluator:
    """Measures S networks at once.

    Args:
        sets: the samples of each split.
        task: the kind of labels.
        loss: L.
        test_functions: phi by name.
        partners: of perturbed limits, the number of each one's partner.
    """

    def __init__(
        self,
        sets: Mapping[str, Evaluation],
        task: Task,
        loss: Loss,
        test_functions: Mapping[str, Averaged],
        *,
        partners: list[int] | None = None,
    ) -> None:
        self.partners = partners
        self.sets, self.task, self.loss, self.test_functions = sets, task, loss, test_functions
        self._workspaces: dict[int, Any] = {}
        self._of: Network | None = None

    def __call__(self, network: Network) -> dict[str, list[float]]:
        """The metrics of each of the S networks, by column name."""
        columns: dict[str, list[float]] = {}
        errors: dict[str, list[float]] = {}
        nonpositive: list[Tensor] = []
        spread: list[Tensor] = []
        for split, samples in self.sets.items():
            sums: dict[str, Tensor] = {}
            squares: dict[str, Tensor] = {}
            nonpositive = [torch.zeros(network.replicates, dtype=torch.float64) for _ in network.widths]
            spread = []
            for x, y in samples:
                ws = self._workspace(network, len(x))
                yhat = network.forward(x, ws).view(network.replicates, network.n_out, -1)
                found = self.values(y, yhat)
                for name, values in found.items():
                    each = values.expand(network.replicates, -1).double()
                    squares[name] = squares.get(name, 0) + each.square().sum(-1).cpu()
                if self.partners is not None:
                    paired = self.values(y, (yhat + yhat[self.partners]) / 2)
                    found |= {f"{name}_paired": values for name, values in paired.items()}
                for name, values in found.items():
                    add = values.expand(network.replicates, -1).sum(-1, dtype=torch.float64).cpu()
                    sums[name] = sums[name] + add if name in sums else add
                if split == list(self.sets)[-1]:
                    for total, add in zip(nonpositive, network.nonpositive(ws), strict=True):
                        total += add.cpu()
                    if self.partners is not None and not spread:
                        # The first samples are enough: their neurons' deviations differ by little.
                        spread = [v.cpu() / len(x) for v in network.spread(ws)]
            columns |= {f"{split}_{name}": (s / samples.count).tolist() for name, s in sums.items()}
            for name, square in squares.items():
                errors[f"{split}_{name}_se"] = _standard_error(sums[name], square, samples.count).tolist()
        last = self.sets[list(self.sets)[-1]]
        columns |= {f"nonpositive_{l}": (s / last.count).tolist() for l, s in enumerate(nonpositive, 1)}
        columns |= {f"spread_{l}": v.sqrt().tolist() for l, v in enumerate(spread, 1)}
        return columns | errors

    def values(self, y: Tensor, yhat: Tensor) -> dict[str, Tensor]:
        """Every metric of every sample (S, B), by name, from outputs (S, n_out, B)."""
        values = {"loss": self.loss.value(y, yhat)}
        errors = self.task.errors(y, yhat)
        if errors is not None:
            values["error"] = errors
        return values | {name: phi(y, yhat) for name, phi in self.test_functions.items()}

    def _workspace(self, network: Network, batch: int) -> Any:
        if network is not self._of:  # A workspace is bound to the arrays of one network.
            self._of = network
            self._workspaces.clear()
        if batch not in self._workspaces:
            self._workspaces[batch] = network.workspace(batch, backward=False)
        return self._workspaces[batch]


def _standard_error(sums: Tensor, squares: Tensor, count: int) -> Tensor:
    """Of the average over ``count`` samples, from the sums of their values and of their squares; NaN for one sample."""
    variance = (squares - sums.square() / count).clamp_min(0.0) / (count - 1) if count > 1 else sums * math.nan
    return (variance / count).sqrt()


def over_sets(columns: dict[str, list[float]], sets: int, union: bool = False) -> dict[str, list[float]]:
    """What each replicate's particle sets say of n = infinity, and its error bar.

    Args:
        columns: metrics of all networks, in the order of ``Blueprint.replicate_of``.
        sets: particle sets in a replicate; with 1, nothing changes.
        union: whether their unions come before them.

    Returns:
        The values of :func:`of_sets`, and for each column but those of ``_se`` a ``_bar``; with a union also ``_sets``,
        the sets' mean.
    """
    means, bars, plain = {}, {}, {}
    for name, values in columns.items():
        every = torch.tensor(values, dtype=torch.float64)
        of_set = every[len(every) // (sets + union) * union :].view(-1, sets).mean(1)
        if name.endswith("_se"):
            # It is about the samples, and the same for all of them but for what their curves differ by.
            means[name] = of_set.tolist()
            continue
        mean, bar = of_sets(every, sets, union)
        # What is never negative has no negative value at n = infinity either.
        means[name] = (mean.clamp_min(0.0) if bool((every >= 0).all()) else mean).tolist()
        if bar is not None:
            bars[f"{name}_bar"] = bar.tolist()
        if union:
            plain[f"{name}_sets"] = of_set.tolist()
    return means | bars | plain


def of_sets(values: Tensor, sets: int, union: bool) -> tuple[Tensor, Tensor | None]:
    """A quantity at n = infinity from those of the particle sets and of their union, and its error bar.

    A set's measure differs from the true one by delta_s, and the union's by their mean. To second order a quantity then
    differs by a linear and by a quadratic form of that. The linear parts of the union and of the sets' mean are the
    same. The quadratic one, which is the bias, is in the mean what one set has and in the union 1 / sets of it, in
    expectation, however the particles of a set are drawn, as long as sets are independent. So

        bias of a set = (mean of sets - union) * sets / (sets - 1),

    and the mean less that is the jackknife over groups. Where mean and union differ by less than the standard error of
    the mean, that is the chance of the quadratic form rather than its expectation, and taking it out would do harm: it
    is shrunk by 1 - (standard error / difference)^2, or to nothing. The bar has three parts: the chance of the draw,
    by the sets' spread; the bias that is left in; and the chance of what is taken out, which is at most of the order of
    the union's bias.

    Args:
        values: (networks, ...), in the order of ``Blueprint.replicate_of``.
        sets: particle sets in a replicate.
        union: whether their unions come before them.

    Returns:
        The quantity (replicates, ...), and the half-width of its 95 % interval; None for one set.
    """
    replicates = len(values) // (sets + union)
    each = values[replicates * union :].view(replicates, sets, *values.shape[1:])
    mean, bar = interval(each, dim=1)
    if not union or bar is None:
        return mean, bar
    difference, squared_error = mean - values[:replicates], each.var(dim=1) / sets
    known = (1 - squared_error / difference.square().clamp_min(1e-300)).clamp_min(0.0)
    bias = difference * sets / (sets - 1)
    return mean - known * bias, (bar**2 + ((1 - known) * bias) ** 2 + (known * bias / sets) ** 2).sqrt()


def interval(values: Tensor, dim: int) -> tuple[Tensor, Tensor | None]:
    """Mean over independent sets along an axis, and the half-width of Student's 95 % interval; None for one set."""
    sets = values.shape[dim]
    if sets == 1:
        return values.squeeze(dim), None
    factor = float(special.stdtrit(sets - 1, 0.975)) / math.sqrt(sets)
    return values.mean(dim), factor * values.std(dim)


def grid(steps: int, points_per_decade: int) -> list[int]:
    """The steps at which a run of ``steps`` is evaluated: 0, a logarithmic grid, and the last one."""
    if steps < 1:
        return [0]
    decades = math.log10(steps)
    inner = {round(10 ** (i / points_per_decade)) for i in range(math.floor(decades * points_per_decade) + 1)}
    return sorted({0, steps} | {k for k in inner if k <= steps})


def kept_steps(evaluated: list[int], per_decade: int) -> set[int]:
    """The steps whose states are kept for good: the evaluated ones nearest to a coarser grid.

    Args:
        evaluated: :func:`grid`.
        per_decade: states in each decade of steps; 0 for none.
    """
    wanted = grid(evaluated[-1], per_decade) if per_decade else []
    return {min(evaluated, key=lambda k: abs(k - step)) for step in wanted}
