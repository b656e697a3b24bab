"""What a run takes, found out without training it.

Memory is counted from the shapes of the network's arrays, of the passes through it and of the samples. Time is that of
a few real steps and of a part of an evaluation. Runs of one shape are measured once; a network too large for that is
measured at a smaller width, and the schedule's own count of operations (:func:`mfrun.sweeps.side_by_side.step_seconds`)
says how much longer the whole one takes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from mfrun import config
from mfrun.dynamics.evaluate import Evaluator, grid, kept_steps
from mfrun.dynamics.experiment import Experiment, assemble
from mfrun.dynamics.steps import Eager, Graphed, Steps
from mfrun.networks.network import Network
from mfrun.problems.problem import CHUNK, Evaluation, PopulationProblem
from mfrun.problems.streams import BLOCK
from mfrun.runs.directory import KEPT_STATES
from mfrun.sweeps import side_by_side

# Operations of a step, at the usual batch or a larger one, that is still measured as it is; CPU seconds for all
# measurements, and for the steps of one.
LARGE, USUAL, BUDGET, ENOUGH = 1.2e10, 100, 2.0, 0.06
# Bytes a second of a state on its way to the disk, and seconds for any; bytes of a number in metrics.csv.
SAVING, SAVE, NUMBER = 5e8, 5e-3, 12
# Bytes of a number in the precision of the samples, and of the draws.
FLOAT, DOUBLE = 4, 8
# The run's keys that change neither its memory nor the time of a step.
INDIFFERENT = ("seed", "alpha", "steps", "schedule", "evaluation", "title", "scaling")


@dataclass(frozen=True)
class Memory:
    """Bytes of a run's arrays at their peak.

    Attributes:
        weights: the trained arrays, which is also the size of a saved state.
        start: while the network is drawn, in float64 and on the host.
        training: from the first step on, evaluations included.
    """

    weights: int
    start: int
    training: int


@dataclass(frozen=True)
class Pace:
    """Measured seconds of one experiment on one core, or on the GPU.

    Attributes:
        flops: floating point operations of its step.
        step: of SGD.
        sample: of an evaluation.
        weight: of drawing a number.
    """

    flops: float
    step: float
    sample: float
    weight: float


@dataclass
class Planned:
    """A run that is to be trained, or its rest.

    Attributes:
        job: as the schedule knows it.
        experiment: what it consists of.
    """

    job: side_by_side.Job
    experiment: Experiment
    memory: Memory = field(init=False)
    pace: Pace = field(init=False)

    @property
    def evaluations(self) -> list[int]:
        """The steps of those to come."""
        cfg = self.experiment.cfg
        done = cfg.steps - self.job.steps
        # The state that a resumed run starts from was saved with its evaluation.
        return [k for k in grid(cfg.steps, cfg.evaluation.points_per_decade) if k > done or done == 0]

    def seconds(self, cores: int = 1) -> float:
        """Predicted time on so many cores."""
        pace = self.pace
        # Both are the same network but for its size.
        larger = side_by_side.step_seconds(self.job.flops, cores) / side_by_side.step_seconds(pace.flops, 1)
        samples = sum(s.count for s in _splits(self.experiment, self.experiment.cfg.evaluation.samples).values())
        evaluation = samples * pace.sample * larger + SAVE + self.memory.weights / SAVING
        drawing = pace.weight * self.memory.weights
        return drawing + self.job.steps * pace.step * larger + len(self.evaluations) * evaluation

    @property
    def disk(self) -> int:
        """Bytes of what is kept: states and metrics.csv."""
        cfg = self.experiment.cfg
        evaluated = grid(cfg.steps, cfg.evaluation.points_per_decade)
        states = kept_steps(evaluated, cfg.keep_checkpoints) | set(evaluated[-KEPT_STATES:])
        splits = len(self.experiment.problem.splits)
        averages = splits * (2 + len(self.experiment.test_functions)) + cfg.depth - 1
        columns = 4 + averages * (2 if math.isinf(cfg.width) else 1)
        return len(states) * self.memory.weights + len(evaluated) * self.experiment.replicates * columns * NUMBER


def measure(runs: Sequence[Planned], budget: float = BUDGET) -> float:
    """Find out what the runs take: fills in their memory and pace.

    Args:
        runs: the runs.
        budget: CPU seconds after which nothing more is measured; at least one run always is.

    Returns:
        CPU seconds that the measurements took.
    """
    torch.set_num_threads(1)
    memory: dict[str, Memory] = {}
    proxies: dict[str, list[Planned]] = {}
    for run in runs:
        key = _shape(run.experiment.cfg)
        if key not in memory:
            memory[key] = measure_memory(run.experiment)
        run.memory = memory[key]
        proxies.setdefault(_shape(smaller(run.experiment.cfg, run.experiment.flops)), []).append(run)
    # The longest first, since most of the time is theirs; then as many as there is time for, the shortest first.
    groups = sorted(proxies.values(), key=lambda group: max(r.experiment.flops for r in group))
    began = time.process_time()
    measured: list[Pace] = []
    for group in groups[-1:] + groups[:-1]:
        if not measured or time.process_time() - began < budget:
            measured.append(measure_pace(group[-1].experiment))
            for run in group:
                run.pace = measured[-1]
        else:
            for run in group:
                run.pace = min(measured, key=lambda pace: abs(math.log(pace.flops / run.job.flops)))
    return time.process_time() - began


def _shape(cfg: config.Config) -> str:
    """Equal for runs whose steps take the same memory and time."""
    kept = {k: v for k, v in vars(cfg).items() if k not in (*INDIFFERENT, *config.EXECUTION)}
    return json.dumps(kept, sort_keys=True, default=str)


def smaller(cfg: config.Config, flops: float) -> config.Config:
    """The same network, of a size whose steps can be measured in passing."""
    # A small batch makes steps quick and not networks small, which have to be drawn.
    excess = flops * max(1.0, USUAL / cfg.batch) / LARGE
    if excess <= 1:
        return cfg
    if cfg.replicates > 2:  # two have all that a stack has
        return smaller(replace(cfg, replicates=2), flops * 2 / cfg.replicates)
    if math.isinf(cfg.width):
        even = 2 * cfg.particles.get("sets", 1)
        first = max(even, round(cfg.particles.get("first", even) / excess / even) * even)
        return replace(cfg, particles={**cfg.particles, "first": first})
    return replace(cfg, width=max(1, int(cfg.width / math.sqrt(excess))))


# -- memory ----------------------------------------------------------------------------------------------------------


def measure_memory(experiment: Experiment) -> Memory:
    """Count the bytes of a run from the shapes of its arrays, which torch's device ``meta`` gives without numbers."""
    cfg, blueprint = experiment.cfg, experiment.blueprint
    network = experiment.architecture.draw(replace(blueprint, device=torch.device("meta")))
    arrays = list(network.state().values())
    weights = sum(array.nbytes for array in arrays)
    if blueprint.infinite:
        # All arrays are drawn in double precision, from coordinates as large as they are, before any is converted.
        start = weights + 2 * sum(DOUBLE * array.numel() for array in arrays)
    else:
        # One array after the other: those so far, and in double precision that of one replicate, which is still held
        # while that of the next is drawn.
        held, start = 0, 0
        for array in arrays:
            held += array.nbytes
            start = max(start, held + DOUBLE * array.numel() // network.replicates * min(network.replicates, 2))
    stream = experiment.stream()
    stream.load(0)
    splits = _splits(experiment, cfg.evaluation.samples).values()
    samples = max(s.count for s in splits)
    passes = network.workspace_bytes(cfg.batch) + network.workspace_bytes(min(samples, CHUNK), backward=False)
    gathered = blueprint.dtype.itemsize * blueprint.d * (cfg.batch + min(samples, CHUNK))
    drawn = sum(s.count for s in splits) if isinstance(experiment.problem, PopulationProblem) else 0
    return Memory(weights, start, weights + passes + stream.nbytes + gathered + FLOAT * blueprint.d * drawn)


def _splits(experiment: Experiment, samples: int) -> dict[str, Evaluation]:
    return experiment.problem.evaluation(experiment.cfg.seed.eval, samples)


def _steps(experiment: Experiment, network: Network, kind: type[Steps]) -> Steps:
    cfg = experiment.cfg
    return kind(
        network,
        experiment.stream(),
        experiment.loss,
        experiment.schedule,
        alpha=cfg.alpha,
        steps=2 * BLOCK,
        batch=cfg.batch,
        layers=cfg.depth,
    )


# -- time ------------------------------------------------------------------------------------------------------------


def measure_pace(experiment: Experiment) -> Pace:
    """Time a few steps and a part of an evaluation of the experiment, or of a smaller one like it."""
    experiment = assemble(smaller(experiment.cfg, experiment.flops), experiment.problem)
    # Particles that are drawn in no time.
    quick = replace(experiment.blueprint.particles, method="plain")
    experiment = replace(experiment, blueprint=replace(experiment.blueprint, particles=quick))
    cuda = experiment.device.type == "cuda"

    def seconds(what: Callable[[], object]) -> float:
        # What other programs take of the core does not count; a GPU's time can only be had from a clock.
        clock = time.perf_counter if cuda else time.process_time
        begin = clock()
        what()
        if cuda:
            torch.cuda.synchronize(experiment.device)
        return clock() - begin

    drawn: list[Network] = []
    drawing = seconds(lambda: drawn.append(experiment.network()))
    network = drawn[0]
    steps = _steps(experiment, network, Graphed if cuda else Eager)
    seconds(lambda: steps.advance(0, 1))
    done = 1 + (few := min(2, BLOCK - 1))
    spent = seconds(lambda: steps.advance(1, done))
    if spent < ENOUGH:
        many = min(BLOCK - done, max(1, round(ENOUGH * few / max(spent, 1e-9))))
        spent, few = seconds(lambda: steps.advance(done, done + many)), many
    loading = seconds(lambda: steps.stream.load(1)) / BLOCK

    # A large network is not measured for long.
    samples = min(experiment.cfg.evaluation.samples, CHUNK if spent / few < 0.01 else CHUNK // 5)
    sets = _splits(experiment, samples)
    evaluator = Evaluator(sets, experiment.problem.task, experiment.loss, experiment.test_functions)
    # The first time it takes its memory.
    evaluating = min(seconds(lambda: evaluator(network)) for _ in range(2))
    weights = sum(array.nbytes for array in network.state().values())
    return Pace(
        experiment.flops, spent / few + loading, evaluating / sum(s.count for s in sets.values()), drawing / weights
    )
