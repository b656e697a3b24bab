"""What networks of one width, and averages of their outputs, lose beyond the limit.

The loss of a network of width n exceeds the limit's by a part that all networks of that width have in common and a part
that is their variance: with ybar the average of infinitely many networks' outputs,

    E L(y, yhat) - L(y, yhat_inf) = [L(y, ybar) - L(y, yhat_inf)] + [E L(y, yhat) - L(y, ybar)],

bias and variance. For the squared loss the second is the variance of yhat, and an average of k networks has 1/k of it;
for others that holds to leading order in 1/n. The states that a sweep has saved tell all of it: with m networks in g
groups, L(y, ybar) is g L_m - (g - 1) L_{m - m/g} up to order m^-2, L_m being the loss of the average of all and
L_{m - m/g} that of all but one group, averaged over the groups. Few groups, because what a loss that jumps (an error)
does by chance counts g times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from mfrun.config import stood_label
from mfrun.dynamics.experiment import Problems, restore
from mfrun.errors import UserError
from mfrun.study.curves import Curve, describe, is_limit
from mfrun.study.prediction import Law

# Groups of networks that are left out in turn: for the average of infinitely many, and for the standard errors.
GROUPS, FOLDS = 4, 8
# The average of infinitely many.
ALL = math.inf


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error."""

    value: float
    error: float


@dataclass
class Ensembles:
    """Those of one width, at one step, in one metric.

    Attributes:
        width: n.
        neurons: that stand for n; None for real networks.
        networks: that there are.
        of: by k, ``ALL`` among them, the metric of an average of k networks' outputs.
        variance: that of one network less that of ``ALL``.
        predicted: gaps to the limit by k, where there is a prediction.
    """

    width: float
    neurons: int | None
    networks: int
    of: dict[float, Estimate]
    variance: Estimate
    predicted: dict[float, float] = field(default_factory=dict)


@dataclass
class Study:
    """All widths of one setting, in one metric.

    Attributes:
        metric: column of metrics.csv.
        setting: what else the runs differ in.
        step: of the states.
        limit: the metric of n = infinity, with half of its bar as the error; None where there is no such run.
        ensembles: by width.
    """

    metric: str
    setting: dict[str, object]
    step: int
    limit: Estimate | None
    ensembles: list[Ensembles]

    def gap(self, e: Ensembles, k: float) -> Estimate | None:
        """To the limit, of averages of k networks of one width; None where there is no limit, or no such average."""
        if self.limit is None or k not in e.of:
            return None
        return Estimate(e.of[k].value - self.limit.value, math.hypot(e.of[k].error, self.limit.error))

    def won(self, e: Ensembles) -> Estimate | None:
        """The share of one network's gap that is variance; None where the gap is not more than its error."""
        gap = self.gap(e, 1)
        if gap is None or not gap.value > 2 * gap.error or e.variance.value == 0:
            return None
        share = e.variance.value / gap.value
        relative = math.hypot(e.variance.error / e.variance.value, gap.error / gap.value)
        return Estimate(share, abs(share) * relative)

    def parts(self) -> dict[str, list[Estimate]]:
        """Variance and bias of one network's gap, by width; without a limit nothing is known of the bias."""
        found = {"variance": [e.variance for e in self.ensembles]}
        bias = [gap for e in self.ensembles if (gap := self.gap(e, ALL)) is not None]
        return found | ({"bias": bias} if bias else {})


def measure(
    curves: list[Curve],
    setting: dict[str, object],
    step: int | None,
    sizes: list[int],
    laws: dict[str, Law],
    problems: Problems,
) -> tuple[list[Study], list[str]]:
    """A study for each metric of the last split, and what is left out and why, in lines.

    Args:
        curves: of one setting.
        setting: what it is called.
        step: of the states, or None for the last that all runs have.
        sizes: numbers of networks to average.
        laws: predictions by metric.
        problems: the data that are loaded already.

    Raises:
        UserError: no state in common, or no width with two networks on the same data.
    """
    called = f" [{describe(setting)}]" if setting else ""
    finite = [c for c in curves if not is_limit(c)]
    several = [c for c in finite if len({x for s in c.sources for x in s.labels()}) > 1]
    if not several:
        raise UserError(f"no width here has two networks to average{called}; replicates=8 trains eight")
    data = several[0].sources[0].data
    for key, differ in (
        ("replicate_data=independent", any(s.independent for c in several for s in c.sources)),
        ("several values of seed.data", any(s.data != data for c in several for s in c.sources)),
    ):
        if differ:
            raise UserError(f"networks whose outputs are averaged share their data{called}; these have {key}")
    # A limit that has seen other batches is not theirs.
    limits = [replace(c, sources=[s for s in c.sources if s.data == data]) for c in curves if is_limit(c)]
    chosen = [*several, *(c for c in limits if c.sources)]
    if len({s.evaluated for c in chosen for s in c.sources}) > 1:
        raise UserError(f"outputs are compared at the same samples{called}; these runs differ in seed.eval")
    steps = [set(source.run.saved_steps()) for c in chosen for source in c.sources]
    common = sorted(set.intersection(*steps))
    if not common or (step is not None and step not in common):
        there = (
            f"they have {', '.join(map(str, common))}" if common else "they have none (keep_checkpoints= keeps some)"
        )
        which = f"--step {step}: no state of that step" if step is not None else "no state"
        raise UserError(f"{which} that all runs have{called}; {there}")
    at = common[-1] if step is None else step
    limit: dict[str, Estimate] = {}
    found: dict[str, list[Ensembles]] = {}
    left_out = [f"n = {stood_label(c.width, c.neurons)}: has one network{called}" for c in finite if c not in several]
    for curve in chosen:
        if is_limit(curve):
            limit = _limit(curve, at, problems)
            continue
        values, outputs = _outputs(curve, at, problems)
        if len(outputs) < 2:
            left_out.append(
                f"n = {stood_label(curve.width, curve.neurons)}: no two networks that did not diverge{called}"
            )
            continue
        for metric, of_outputs in values.items():
            one = ensembles(of_outputs, outputs, sizes)
            one.width, one.neurons = curve.width, curve.neurons
            law = laws.get(metric)
            if law is not None and at in law.frame.index:
                one.predicted = {k: float(law.gap(curve.width, k)[at]) for k in one.of}
            found.setdefault(metric, []).append(one)
    return [Study(metric, setting, at, limit.get(metric), every) for metric, every in found.items()], left_out


def _limit(curve: Curve, step: int, problems: Problems) -> dict[str, Estimate]:
    """The metrics of n = infinity at a step; none of a limit that has diverged."""
    experiment, network, _ = restore(curve.sources[0].run, step, problems)
    columns = experiment.over_sets(experiment.evaluator()(network))
    if not all(math.isfinite(values[0]) for name, values in columns.items() if name.endswith("_loss")):
        return {}
    return {
        name: Estimate(values[0], columns[f"{name}_bar"][0] / 2)
        for name, values in columns.items()
        if f"{name}_bar" in columns
    }


def _outputs(curve: Curve, step: int, problems: Problems) -> tuple[dict[str, Callable[[Tensor], float]], Tensor]:
    """Outputs (networks, n_out, samples) of a width on the last split, and what each metric makes of one's outputs."""
    parts, seen = [], set[tuple[str, str]]()
    for source in curve.sources:
        # A network that another run has trained already is no further one.
        new = [label not in seen for label in source.labels()]
        if not any(new):
            continue
        seen |= set(source.labels())
        experiment, network, _ = restore(source.run, step, problems)
        evaluator = experiment.evaluator()
        split, samples = list(evaluator.sets.items())[-1]
        parts.append(network.outputs(x for x, _ in samples)[new])
    # All runs are evaluated at the same samples.
    y, outputs = torch.cat([y for _, y in samples], -1), torch.cat(parts)
    lost = [not bool(evaluator.values(y, one[None])["loss"].isfinite().all()) for one in outputs]
    outputs = outputs[~torch.tensor(lost)]

    def of(name: str) -> Callable[[Tensor], float]:
        return lambda yhat: float(evaluator.values(y, yhat[None])[name].mean(dtype=torch.float64))

    return {f"{split}_{name}": of(name) for name in evaluator.values(y, outputs[:1])}, outputs


def ensembles(metric: Callable[[Tensor], float], outputs: Tensor, sizes: Iterable[int]) -> Ensembles:
    """The metric of averages of k networks' outputs, with standard errors from leaving out groups of networks in turn.

    Args:
        metric: of outputs (n_out, samples).
        outputs: of independent networks (networks, n_out, samples).
        sizes: k; 1 and ``ALL`` come in any case.
    """
    count = len(outputs)
    folds = min(FOLDS, count)
    left = count - math.ceil(count / folds)
    sizes = [k for k in sizes if k <= max(left, 1)]
    every = _averages(metric, outputs, sizes)
    # Two networks can do without none of them.
    rest = [torch.arange(count) % folds != fold for fold in range(folds)] if left > 1 else []
    again = [_averages(metric, outputs[keep], sizes) for keep in rest]

    def estimate(of: Callable[[dict[float, float]], float]) -> Estimate:
        values = np.array([of(one) for one in again])
        error = (
            math.sqrt((folds - 1) / folds * float(((values - values.mean()) ** 2).sum())) if len(values) else math.nan
        )
        return Estimate(of(every), error)

    found = {k: estimate(lambda one, k=k: one[k]) for k in every}  # type: ignore[misc]
    return Ensembles(math.nan, None, count, found, estimate(lambda one: one[1] - one[ALL]))


def _averages(metric: Callable[[Tensor], float], outputs: Tensor, sizes: Iterable[int]) -> dict[float, float]:
    """By k, the mean of the metric over averages of k networks, each of which is in as many of them."""
    count = len(outputs)
    found: dict[float, float] = {}
    for k in (1, *sizes):
        # Neighbours in a circle.
        chosen = [[(i + j) % count for j in range(k)] for i in range(count if k < count else 1)]
        found[k] = float(np.mean([metric(outputs[c].mean(0)) for c in chosen]))
    total = outputs.sum(0)
    groups = [outputs[torch.arange(count) % GROUPS == group] for group in range(min(GROUPS, count))]
    without = [(count - len(one)) * metric((total - one.sum(0)) / (count - len(one))) for one in groups]
    found[ALL] = len(groups) * metric(total / count) - sum(without) / count
    return found
