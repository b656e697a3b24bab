"""Values that are legal but seldom meant: a line on standard error for each, once for a command."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from mfrun.config import width_label
from mfrun.runs.progress import say

if TYPE_CHECKING:
    from mfrun.dynamics.experiment import Experiment

# Fewer particles than these are a poor integral over the measure of a layer, and their bars too short.
FEW_PARTICLES = {"first": 256, "inner": 64, "last": 64}
# And neurons of a first layer that stand for more, or that are fewer than this part of the dimensions of its law.
FEW_STAND_INS, PART = 256, 0.25
# Where the noise of inner weights is fewer of the distances between two numbers, rounding may add as much to it
# (docs/width.md): in a long run for the type that weights are kept in, at once for that of the factors of products.
KEPT, MULTIPLIED = 16.0, 1.0
# What a weight comes to as it learns, where it does not start there.
SIZE = 1.0
# A target of a regression seldom has so few values.
FEW_VALUES = 20
# (key, value, why it is suspect)
Suspicion = tuple[str, Any, str]


def schedule_in_steps(experiment: Experiment) -> Iterator[Suspicion]:
    """Times of a schedule that come too late to act, as if they were given in steps k and not in t = k alpha."""
    cfg, schedule = experiment.cfg, experiment.schedule
    # A part of a run, budget < 1, has the times that were meant for the whole.
    steps = round(cfg.steps / cfg.budget)
    end = steps * cfg.alpha
    for key, late in schedule.idle(end).items() if steps else ():
        why = f"the run, which ends at t = steps * alpha = {end:g}, {late}; a schedule is in t = k * alpha, not in k"
        yield f"schedule.{key}", getattr(schedule, key), why


def batch_beyond_the_data(experiment: Experiment) -> Iterator[Suspicion]:
    """A batch that must hold samples twice."""
    from mfrun.problems.problem import FiniteProblem

    if isinstance(experiment.problem, FiniteProblem):
        count, batch = len(experiment.problem.data["train"][0]), experiment.cfg.batch
        if batch > count:
            how = "some samples are drawn several times in a step"
            how = f"a step goes through {batch / count:.3g} epochs" if experiment.cfg.sampling == "epochs" else how
            yield "batch", batch, f"the training set has {count} samples; {how}"


def targets_like_classes(experiment: Experiment) -> Iterator[Suspicion]:
    """Floats that are few whole numbers, as classes often are."""
    from mfrun.problems.problem import FiniteProblem
    from mfrun.problems.tasks import Task

    problem, dataset = experiment.problem, experiment.cfg.dataset
    if isinstance(problem, FiniteProblem) and problem.task is Task.REGRESSION and dataset.get("task") == "auto":
        values = problem.data["train"][1].unique()  # type: ignore[no-untyped-call]
        if problem.n_out == 1 and len(values) <= FEW_VALUES and bool((values == values.round()).all()):
            seen = ", ".join(f"{v:g}" for v in values.tolist())
            why = f"labels {seen} are floats, and so targets of a regression; classes takes them as classes"
            yield "dataset.task", "auto", why


def few_particles(experiment: Experiment) -> Iterator[Suspicion]:
    """An n = infinity that is little more than a small network."""
    from mfrun.networks.drawing import AnyWidth
    from mfrun.networks.limit import in_particles

    blueprint, architecture = experiment.blueprint, experiment.architecture
    if not blueprint.infinite or blueprint.perturbed or not isinstance(architecture, AnyWidth):
        return
    taken = in_particles(blueprint, architecture.layers_of(blueprint))
    for key, least in FEW_PARTICLES.items():
        count = getattr(blueprint.particles, key)
        if key in taken and count < least:
            why = (
                f"fewer than {least} particles stand poorly for n = infinity, and the columns _bar say too little of it"
            )
            yield f"particles.{key}", count, why


def few_stand_ins(experiment: Experiment) -> Iterator[Suspicion]:
    """A first layer of few types, whose own error hides what the width does."""
    from mfrun.networks.drawing import AnyWidth

    blueprint, architecture = experiment.blueprint, experiment.architecture
    if blueprint.stood_for and isinstance(architecture, AnyWidth):
        first, d = architecture.held(blueprint)[0], architecture.layers_of(blueprint).fan_in
        if first < max(FEW_STAND_INS, PART * d):
            how = f"{first} neurons of layer 1 represent the law of w in {d} dimensions poorly"
            yield "neurons", blueprint.neurons, f"{how}; stand_in.first= takes more (docs/width.md)"


def noise_in_the_rounding(experiment: Experiment) -> Iterator[Suspicion]:
    """A width that inner weights have no digits for: without labels their noise makes the neurons of a layer differ."""
    import torch

    from mfrun.networks.drawing import AnyWidth

    blueprint, architecture, cfg = experiment.blueprint, experiment.architecture, experiment.cfg
    init = blueprint.init
    if not (blueprint.stood_for or blueprint.perturbed) or not blueprint.noisy or init.labelled:
        return
    if not isinstance(architecture, AnyWidth):
        return
    # The least that a sum over a layer sees of it, tau2^2 over the neurons that one stands for (networks/stand_in.py).
    noise = init.noise / math.sqrt(max(architecture.lumped(blueprint)))
    means = [torch.as_tensor(init.inner(l, None, None)) for l in range(2, blueprint.depth)]
    size = max(SIZE, noise, *(float(mean.abs().max()) for mean in means))
    n = blueprint.predict.width if blueprint.perturbed else cfg.width
    multiplied = {"tf32": 2.0**-10, "bf16": 2.0**-7}
    for key, distance, least, other in (
        ("dtype", torch.finfo(blueprint.dtype).eps * size, KEPT, "float64"),
        ("precision", multiplied.get(cfg.precision, 0.0) * size, MULTIPLIED, "float32"),
    ):
        if noise < least * distance:
            why = (
                f"numbers of the size of inner weights are up to {distance:.2g} apart, and the noise by which these "
                f"differ at n = {width_label(n)} is {noise:.2g}: rounding may add as much; {other} keeps it apart "
                "(docs/width.md)"
            )
            yield key, getattr(cfg, key), why
            return


def labels_in_the_noise(experiment: Experiment) -> Iterator[Suspicion]:
    """A width that does not see that the neurons of its limit differ."""
    blueprint, n = experiment.blueprint, experiment.cfg.width
    if not blueprint.init.labelled or math.isinf(n):
        return
    from mfrun.dynamics.labels import labels, limit_of

    hidden = [one for one in labels(experiment, limit_of(experiment)) if one.needed() > n]
    if hidden:
        worst = max(hidden, key=lambda one: one.needed())
        known = math.isfinite(worst.needed())
        least = f"; more from n = {math.ceil(worst.needed())} on" if known else ""
        why = (
            f"its labels make the neurons of layer {worst.layer} differ by less ({worst.signal:.2g}) than the chance "
            f"of {int(n)} neurons makes ({worst.noise / math.sqrt(n):.2g}){least}; widths may agree with one another "
            "and not with the limit (docs/initial_laws.md)"
        )
        yield "width", int(n), why


def ties_in_pooling(experiment: Experiment) -> Iterator[Suspicion]:
    """Maxima over pixels that are all alike at n = infinity, and that the chance of a finite network tells apart.

    Inner filters start as constants. Where one covers all of the image that comes in, wherever it is laid, its outputs
    are the same everywhere, and the gradient goes to the first of them.
    """
    from mfrun.networks.cnn import ConvArchitecture

    blueprint, architecture = experiment.blueprint, experiment.architecture
    if not blueprint.infinite or not isinstance(architecture, ConvArchitecture) or blueprint.init.labelled:
        return
    inner = list(enumerate(zip(architecture.layers, architecture.sizes(blueprint.image), strict=False)))[1:]
    for i, (layer, sides) in inner:
        reach = [(side, layer.convolved(side)) for side in sides]
        covered = all(layer.pad >= (out - 1) * layer.stride and layer.kernel - layer.pad >= side for side, out in reach)
        if layer.pools and covered and any(out > 1 for _, out in reach):
            why = (
                f"at n = infinity the pixels that it pools are all alike, as the kernel covers all of {sides[0]} x "
                f"{sides[1]}; which is the largest is chance in a network of any width (docs/cnn.md)"
            )
            yield f"architecture.layers[{i}].pool", layer.pool, why


def kernels_of_one_label(experiment: Experiment) -> Iterator[Suspicion]:
    """Samples without an alignment."""
    from mfrun.problems.problem import FiniteProblem

    cfg, problem = experiment.cfg, experiment.problem
    if cfg.evaluation.kernels and isinstance(problem, FiniteProblem):
        split, samples = list(problem.evaluation(cfg.seed.eval, cfg.evaluation.samples).items())[-1]
        _, y = samples.first(cfg.evaluation.kernels)
        if bool((y == y[..., :1]).all()):
            why = f"the first {y.shape[-1]} samples of {split} all have one label, and alignments are NaN"
            yield "evaluation.kernels", cfg.evaluation.kernels, f"{why}; shuffle the samples, or take more"


def more_threads_than_cores(experiment: Experiment, cores: int) -> Iterator[Suspicion]:
    """Threads, or runs side by side, that wait for one another."""
    threads = experiment.cfg.threads
    if threads is not None and threads > cores:
        yield "threads", threads, f"more than the cores that this process may use, {cores}; they wait for one another"


RULES: tuple[Callable[[Experiment], Iterator[Suspicion]], ...] = (
    schedule_in_steps,
    batch_beyond_the_data,
    targets_like_classes,
    few_particles,
    few_stand_ins,
    noise_in_the_rounding,
    labels_in_the_noise,
    ties_in_pooling,
    kernels_of_one_label,
)


def warn(experiments: Iterable[Experiment], cores: int | None = None) -> None:
    """Name the suspect values of all jobs of a command, each key once.

    Args:
        experiments: of the jobs.
        cores: that they may use; None where they are trained elsewhere, on nobody knows how many.
    """
    lines: dict[str, str] = {}
    for experiment in experiments:
        suspect = [suspicion for rule in RULES for suspicion in rule(experiment)]
        if cores is not None:
            suspect += more_threads_than_cores(experiment, cores)
        for key, value, why in suspect:
            lines.setdefault(key, f"mfrun: warning: {key}={value}: {why}")
    for line in lines.values():
        say(line)
