"""Values that are legal but seldom meant: a line on standard error for each, once for a command."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from mfrun.runs.progress import say

if TYPE_CHECKING:
    from mfrun.dynamics.experiment import Experiment

# Fewer particles than these are a poor integral over the measure of a layer, and their bars too short.
FEW_PARTICLES = {"first": 256, "inner": 64, "last": 64}
# And neurons of a first layer that stand for more, or that are fewer than this part of the dimensions of its law.
FEW_STAND_INS, PART = 256, 0.25
# Noise of inner weights that is fewer of these distances between two numbers does not outlive a run (docs/width.md):
# those of the type that weights are kept in, where every update rounds them, and those of the factors of products.
KEPT, MULTIPLIED = 4.0, 1.0
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
    blueprint = experiment.blueprint
    if not blueprint.infinite or blueprint.perturbed:
        return
    for key, least in FEW_PARTICLES.items():
        count = getattr(blueprint.particles, key)
        # Layers between the first and the last one have types where they have labels.
        idle = key == "inner" and not (blueprint.init.labelled and blueprint.depth > 3)
        if count < least and not idle:
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
    """A width that inner weights have no digits for: without labels their noise alone tells one width from another."""
    import torch

    from mfrun.networks.drawing import AnyWidth

    blueprint, architecture, cfg = experiment.blueprint, experiment.architecture, experiment.cfg
    init = blueprint.init
    if not (blueprint.stood_for or blueprint.perturbed) or not blueprint.noisy or init.labelled:
        return
    if not isinstance(architecture, AnyWidth):
        return
    # Its variance is tau2^2 over the neurons behind one, and it has two parts (mfrun.networks.stand_in).
    noise = init.noise / math.sqrt(max(architecture.lumped(blueprint)))
    largest = max(float(torch.as_tensor(init.inner(l, None, None)).abs().max()) for l in range(2, blueprint.depth))
    n = blueprint.predict.width if blueprint.perturbed else cfg.width
    multiplied = {"tf32": 2.0**-10, "bf16": 2.0**-7}
    for key, distance, least, other in (
        ("dtype", torch.finfo(blueprint.dtype).eps, KEPT, "float64"),
        ("precision", multiplied.get(cfg.precision, 0.0), MULTIPLIED, "float32"),
    ):
        distance *= max(largest, noise)
        if noise < least * distance:
            why = (
                f"numbers of the size of the inner weights are {distance:.2g} apart, and the noise that these have at "
                f"n = {n:g} is {noise:.2g}: much of what tells this width from others is lost; {other} keeps it "
                "(docs/width.md)"
            )
            yield key, getattr(cfg, key), why


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


RULES: tuple[Callable[[Experiment], Iterator[Suspicion]], ...] = (
    schedule_in_steps,
    batch_beyond_the_data,
    targets_like_classes,
    few_particles,
    few_stand_ins,
    noise_in_the_rounding,
    labels_in_the_noise,
)


def warn(experiments: Iterable[Experiment]) -> None:
    """Name the suspect values of all jobs of a command, each key once."""
    lines: dict[str, str] = {}
    for experiment in experiments:
        for rule in RULES:
            for key, value, why in rule(experiment):
                lines.setdefault(key, f"mfrun: warning: {key}={value}: {why}")
    for line in lines.values():
        say(line)
