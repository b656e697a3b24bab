"""What a run takes, found out without training it.

Memory is counted from the shapes of the network's arrays, of the passes through it and of the samples. Time is that of
a few real steps and of a part of an evaluation. Runs of one shape are timed once; a network too large for that is timed
at a smaller size, and the schedule's own count (:func:`mfrun.sweeps.side_by_side.step_seconds`) says how much longer
the whole one takes.
"""

from __future__ import annotations

import functools
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from mfrun import config
from mfrun.dynamics.evaluate import grid, kept_steps
from mfrun.dynamics.experiment import Experiment, assemble
from mfrun.errors import ConfigError
from mfrun.problems.problem import CHUNK, PopulationProblem
from mfrun.problems.streams import BLOCK
from mfrun.runs.directory import KEPT_STATES
from mfrun.sweeps.side_by_side import Job, step_seconds

# A step of more operations is timed at a smaller size; at a batch below the usual one, networks are as large as there.
LARGE_STEP, USUAL_BATCH = 1.2e10, 100
# A step of more samples is timed with these, and takes as much longer as there are more of them.
LARGE_BATCH = 1000
# CPU seconds after which no further run is timed, and for which the steps of one are repeated.
ALL_TIMING, ONE_TIMING = 2.0, 0.06
# A state goes to the disk at so many bytes a second and takes so many seconds whatever its size.
SAVED_A_SECOND, SAVE_SECONDS = 5e8, 5e-3
GIB = 2**30
# Bytes of a number in metrics.csv, among the samples, and while weights are drawn.
CSV, FLOAT, DOUBLE = 12, 4, 8
# The keys of a run that change neither its memory nor the time of a step.
INDIFFERENT = ("seed", "alpha", "steps", "schedule", "evaluation", "title", "scaling", *config.EXECUTION)


@dataclass(frozen=True)
class Memory:
    """Bytes of a run's arrays.

    Attributes:
        weights: the trained arrays, which is also the size of a saved state.
        start: at the peak while the network is drawn, in float64 and on the host.
        training: at the peak from the first step on, evaluations included.
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
        weight: of drawing a byte of the weights.
    """

    flops: float
    step: float
    sample: float
    weight: float


@dataclass
class Planned:
    """A run that is to be trained, or its rest; :func:`measure` fills in its memory and pace.

    Attributes:
        job: as the schedule knows it.
        experiment: what it consists of.
        cores: that it has for itself.
        where: the same in words.
    """

    job: Job
    experiment: Experiment
    memory: Memory = field(init=False)
    pace: Pace = field(init=False)
    cores: int = 1
    where: str = "one core"

    @functools.cached_property
    def samples(self) -> int:
        """Those of an evaluation, in all splits."""
        return sum(split.count for split in self.experiment.evaluator().sets.values())

    @property
    def evaluations(self) -> list[int]:
        """The steps of those to come."""
        cfg = self.experiment.cfg
        done = cfg.steps - self.job.steps
        # The state that a resumed run starts from was saved with its evaluation.
        return [k for k in grid(cfg.steps, cfg.evaluation.points_per_decade) if k > done or done == 0]

    @property
    def parts(self) -> float:
        """Steps of ``LARGE_BATCH`` samples that one of a larger batch is worth; 1 for any other."""
        return max(1.0, self.experiment.cfg.batch / LARGE_BATCH)

    def unlike(self, pace: Pace) -> float:
        """How far the size of a timed experiment is from this one's."""
        return abs(math.log(pace.flops * self.parts / self.job.flops))

    def seconds(self, cores: int | None = None) -> float:
        """Predicted time on so many cores, by default those that it has."""
        pace = self.pace
        # Both are the same network but for its size.
        larger = step_seconds(self.job.flops / self.parts, cores or self.cores) / step_seconds(pace.flops, 1)
        evaluation = self.samples * pace.sample * larger + SAVE_SECONDS + self.memory.weights / SAVED_A_SECOND
        steps = self.job.steps * pace.step * larger * self.parts
        return pace.weight * self.memory.weights + steps + len(self.evaluations) * evaluation

    @property
    def disk(self) -> int:
        """Bytes of what is kept: states, metrics.csv and kernels."""
        cfg, e = self.experiment.cfg, self.experiment
        evaluated = grid(cfg.steps, cfg.evaluation.points_per_decade)
        states = kept_steps(evaluated, cfg.keep_checkpoints) | set(evaluated[-KEPT_STATES:])
        # Averages over the samples have a standard error, and shares of neurons have none; the limit's have a bar.
        averages = len(e.problem.splits) * (2 + len(e.test_functions))
        columns = (averages + cfg.depth - 1) * (1 + e.blueprint.infinite + e.blueprint.union) + averages
        rows = e.replicates * (4 + columns) * CSV
        # Two kernels of each hidden layer.
        kernels = e.replicates * 2 * (cfg.depth - 1) * cfg.evaluation.kernels**2 * (1 + e.blueprint.infinite) * FLOAT
        return len(states) * self.memory.weights + len(evaluated) * (rows + kernels)


def measure(runs: Sequence[Planned]) -> float:
    """Find out what the runs take: fills in their memory and pace; returns the CPU seconds that the timing took."""
    torch.set_num_threads(1)
    memory: dict[str, Memory] = {}
    alike: dict[str, list[Planned]] = {}
    for run in runs:
        shape = _shape(run.experiment.cfg)
        if shape not in memory:
            memory[shape] = measure_memory(run.experiment)
        run.memory = memory[shape]
        alike.setdefault(_shape(smaller(run.experiment.cfg, run.experiment.flops)), []).append(run)
    # The longest first, since most of the time is theirs; then as many as there is time for, the shortest first.
    groups = sorted(alike.values(), key=lambda group: max(run.experiment.flops for run in group))
    began, paces = time.process_time(), list[Pace]()
    for group in groups[-1:] + groups[:-1]:
        timed = not paces or time.process_time() - began < ALL_TIMING
        if timed:
            paces.append(measure_pace(group[-1].experiment))
        for run in group:
            run.pace = paces[-1] if timed else min(paces, key=run.unlike)
    return time.process_time() - began


def _shape(cfg: config.Config) -> str:
    """Equal for runs whose steps take the same memory and time."""
    kept = {k: v for k, v in vars(cfg).items() if k not in INDIFFERENT}
    return json.dumps({**kept, "samples": cfg.evaluation.samples}, sort_keys=True, default=str)


def smaller(cfg: config.Config, flops: float) -> config.Config:
    """The same network, of a size whose steps can be timed in passing."""
    if cfg.batch > LARGE_BATCH:
        return smaller(replace(cfg, batch=LARGE_BATCH), flops * LARGE_BATCH / cfg.batch)
    # A small batch makes steps quick and not networks small, which have to be drawn.
    excess = flops * max(1.0, USUAL_BATCH / cfg.batch) / LARGE_STEP
    if excess <= 1:
        return cfg
    if cfg.replicates > 2:  # Two have all that a stack has.
        return smaller(replace(cfg, replicates=2), flops * 2 / cfg.replicates)
    if math.isinf(cfg.width):
        even = 2 * cfg.particles.get("sets", 1)
        first = max(even, round(cfg.particles.get("first", even) / excess / even) * even)
        return replace(cfg, particles={**cfg.particles, "first": first})
    if cfg.neurons is not None and cfg.neurons < cfg.width:
        # Even layers, where the ratios leave them so.
        return replace(cfg, neurons=max(1, int(cfg.neurons / math.sqrt(excess) / 64)) * 64)
    return replace(cfg, width=max(1, int(cfg.width / math.sqrt(excess))))


def measure_memory(experiment: Experiment) -> Memory:
    """Count the bytes of a run from the shapes of its arrays, which torch's device ``meta`` gives without numbers.

    Raises:
        ConfigError: there are more than could be numbered.
    """
    cfg, blueprint = experiment.cfg, experiment.blueprint
    least = experiment.multiplications * blueprint.dtype.itemsize
    if least >= 2**63:
        raise _too_large(experiment, f"its weights take {size(least)}, which no machine has")
    network = experiment.architecture.draw(replace(blueprint, device=torch.device("meta")))
    arrays = list(network.state().values())
    weights = sum(array.nbytes for array in arrays)
    # The arrays of the limit, and of what stands for a width, are drawn in double precision, from coordinates as large
    # as they are, before any is converted.
    start = weights + 2 * sum(DOUBLE * array.numel() for array in arrays)
    if not (blueprint.infinite or blueprint.stood_for):
        # Here one comes after the other: those so far, and in double precision that of one replicate, which is still
        # held while that of the next is drawn.
        drawn = DOUBLE * min(network.replicates, 2) / network.replicates
        start = max(sum(a.nbytes for a in arrays[: i + 1]) + int(drawn * arrays[i].numel()) for i in range(len(arrays)))
    # A block of batches of one sample: what there is of larger ones is as many times as much.
    stream = replace(experiment, cfg=replace(cfg, batch=1)).stream()
    stream.load(0)
    splits = [split.count for split in experiment.evaluator().sets.values()]
    chunk = min(max(splits), CHUNK)
    passes = network.workspace_bytes(cfg.batch) + network.workspace_bytes(chunk, backward=False)
    gathered = blueprint.dtype.itemsize * blueprint.d * (cfg.batch + chunk)
    fresh = FLOAT * blueprint.d * sum(splits) if isinstance(experiment.problem, PopulationProblem) else 0
    return Memory(weights, start, weights + passes + stream.nbytes * cfg.batch + gathered + fresh)


def refuse_too_large(experiments: Sequence[Experiment]) -> None:
    """Refuse real networks whose weights alone this machine cannot hold; what else may not fit ``--dry-run`` says.

    Raises:
        ConfigError: there is one.
    """
    memory = machine_memory()
    for experiment in experiments:
        blueprint, device = experiment.blueprint, experiment.device
        there = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else memory
        # Multiplications of a sample are as many as weights, or more; only then is it worth counting.
        if experiment.multiplications * blueprint.dtype.itemsize <= there:
            continue
        weights = measure_memory(experiment).weights
        if weights > there:
            raise _too_large(experiment, f"its weights take {size(weights)}, and there are {size(there)} of memory")


def _too_large(experiment: Experiment, why: str) -> ConfigError:
    """The refusal, and what can be done."""
    cfg, blueprint = experiment.cfg, experiment.blueprint
    if blueprint.scaling.is_mean_field and cfg.neurons is None and not blueprint.infinite:
        why += "; with neurons=256 so many stand for it"
    return ConfigError("width", config.stood_label(cfg.width, cfg.neurons), why)


def machine_memory() -> float:
    """Bytes that processes here may have: the machine's, or less where a control group says so."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    root = Path("/sys/fs/cgroup")
    try:
        own = root / Path("/proc/self/cgroup").read_text().split("0::", 1)[1].splitlines()[0].lstrip("/")
    except (OSError, IndexError):
        own = root
    for folder in (own, *own.parents):
        for file in (folder / "memory.max", folder / "memory" / "memory.limit_in_bytes"):
            try:
                found.append(int(file.read_text()))
            except (OSError, ValueError):  # There is no such file, or it says "max".
                continue
    return min(found)


def size(count: float) -> str:
    """``4.2 MiB``, ``120 GiB``."""
    if count < GIB:
        return f"{count / 2**20:.3g} MiB"
    return f"{count / GIB:.3g} GiB" if count < 1024 * GIB else f"{count / GIB / 1024:.3g} TiB"


def _timed(experiment: Experiment) -> Experiment:
    """The experiment at the size at which it is timed."""
    flops = experiment.flops
    while True:
        less = smaller(experiment.cfg, flops)
        try:
            return assemble(replace(less, steps=2 * BLOCK), experiment.problem)
        except ConfigError:
            # A layer that is narrow beside the others has no neurons left there: twice the width, and at last its own.
            if less == experiment.cfg:
                raise
            flops /= 4


def measure_pace(experiment: Experiment) -> Pace:
    """Time a few steps and a part of an evaluation of the experiment, or of a smaller one like it."""
    experiment = _timed(experiment)
    # Particles that are drawn in no time.
    quick = replace(experiment.blueprint.particles, method="plain")
    experiment = replace(experiment, blueprint=replace(experiment.blueprint, particles=quick))
    cuda = experiment.device.type == "cuda"
    # What other programs take of the core does not count; a GPU's time can only be had from a clock.
    clock = time.perf_counter if cuda else time.process_time

    def seconds(what: Callable[[], object]) -> float:
        begin = clock()
        what()
        if cuda:
            torch.cuda.synchronize(experiment.device)
        return clock() - begin

    begin = clock()
    network = experiment.network()
    seconds(bool)  # The GPU has drawn it.
    drawing = clock() - begin
    steps = experiment.steps(network, experiment.stream())
    seconds(lambda: steps.advance(0, 1))
    done, count = 3, 2
    spent = seconds(lambda: steps.advance(1, done))
    if spent < ONE_TIMING:
        many = min(BLOCK - done, max(1, round(ONE_TIMING * count / max(spent, 1e-9))))
        spent, count = seconds(lambda: steps.advance(done, done + many)), many
    loading = seconds(lambda: steps.stream.load(1)) / BLOCK

    # A large network is not evaluated for long.
    samples = min(experiment.cfg.evaluation.samples, CHUNK if spent / count < 0.01 else CHUNK // 5)
    evaluator = experiment.evaluator(samples)
    # The first time it takes its memory.
    evaluating = min(seconds(lambda: evaluator(network)) for _ in range(2))
    evaluating /= sum(split.count for split in evaluator.sets.values())
    weights = sum(array.nbytes for array in network.state().values())
    return Pace(experiment.flops, spent / count + loading, evaluating, drawing / weights)
