"""``mfrun sweep --dry-run``: what a sweep would take, where its runs would go, and what does not fit.

The order of the runs and where they go are those of the schedule itself (:mod:`mfrun.sweeps.side_by_side`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from mfrun.files import free_bytes
from mfrun.runs.status import duration
from mfrun.sweeps.estimate import GIB, Planned, machine_memory, measure, size
from mfrun.sweeps.jobs import Run
from mfrun.sweeps.side_by_side import GPU_STREAMS, Job, available_cores, longest_first, makespan, schedule

# Bytes of a run's process beside its arrays and what all processes share, and of a CUDA context.
PROCESS, CONTEXT = 60 * 2**20, 600 * 2**20


@dataclass(frozen=True)
class Cluster:
    """What ``hydra/launcher=`` hands the runs to; None where it does not say.

    Attributes:
        name: of the launcher.
        at_once: runs at a time.
        cores: of a run.
        gpus: of a run.
        seconds: of wall time until a run is saved and requeued.
        memory: bytes of a run.
        here: whether it is this machine, in processes that load the data for themselves.
    """

    name: str
    at_once: int | None = None
    cores: int | None = None
    gpus: int | None = None
    seconds: float | None = None
    memory: float | None = None
    here: bool = False

    @staticmethod
    def of(name: str, keys: Any) -> Cluster:
        """From the launcher's own keys, ``hydra.launcher``."""
        get, cores = keys.get, available_cores()
        if name == "basic":
            return Cluster(name, at_once=1, cores=cores, here=True)
        if name == "joblib":
            # As joblib counts: -1 is one a core, -2 one less.
            at_once = get("n_jobs") if get("n_jobs") > 0 else max(1, cores + 1 + get("n_jobs"))
            return Cluster(name, at_once, cores=max(1, cores // at_once), here=True)
        if name == "submitit_local":
            return Cluster(name, here=True)
        if name == "ray" and get("ray")["init"]["address"] is None:
            of_run = get("ray")["remote"]["num_cpus"] or 1
            at_once = int((get("ray")["init"]["num_cpus"] or cores) / of_run)
            return Cluster(name, max(1, at_once), cores=max(1, int(of_run)), here=True)
        limit = get("timeout_min")
        return Cluster(
            name,
            get("array_parallelism"),
            get("cpus_per_task"),
            get("gpus_per_node"),
            limit * 60 - (get("signal_delay_s") or 0) if limit else None,
            get("mem_gb") * GIB if get("mem_gb") else None,
        )


def plan(runs: Sequence[Run], top: Path, threads: int | None, cluster: Cluster | None = None) -> int:
    """Say what the sweep would take; 1 where it does not fit."""
    left = [Planned(run.job(), run.experiment) for run in runs if not run.finished]
    if len(left) < len(runs):
        print(f"{len(runs) - len(left)} of {len(runs)} runs are done\n")
    if not left:
        return 0
    timing = measure(left)
    plan = Plan(left, top, threads, cluster)
    print(f"{plan.table()}\n\n{plan.totals(timing)}")
    return 1 if plan.lacking() else 0


class Plan:
    """What the runs that are left of a sweep would take.

    Args:
        runs: in the order in which they were given; measured; not empty.
        top: the sweep's folder, which need not be there.
        threads: cores to take; None for all.
        cluster: who trains them, where that is not this machine.
    """

    def __init__(self, runs: Sequence[Planned], top: Path, threads: int | None, cluster: Cluster | None = None) -> None:
        self.top, self.cluster = top, cluster
        # The data are loaded by now, and all processes share them.
        self.shared = _resident()
        self.device = runs[0].experiment.device
        self.here = cluster is None or cluster.here
        self.gpu = cluster is None and self.device.type == "cuda"
        # A launcher gives threads= to each run.
        self.cores = (threads if cluster is None else None) or available_cores()
        self.at_once = min(cluster.at_once or len(runs), len(runs)) if cluster else self.cores
        # How often imports and data are in this machine's memory, or in that of a job elsewhere.
        self.copies = self.at_once if cluster and self.here else 1
        self.runs = list(self._placed({id(run.job): run for run in runs}, threads))

    def _placed(self, runs: dict[int, Planned], threads: int | None) -> Iterator[Planned]:
        """The runs in the order in which they start, with the cores that they have."""
        jobs = [run.job for run in runs.values()]
        wide, narrow = list[Job](), jobs
        cores, where = 1, "one core"
        if self.cluster is not None:
            cores, where = threads or self.cluster.cores or 1, f"{self.cluster.name} job"
        elif self.gpu:
            narrow, where = longest_first(jobs), "GPU stream"
        else:
            wide, narrow = schedule(jobs, self.cores)
        for run in (runs[id(job)] for job in wide):
            run.cores, run.where = self.cores, f"all {self.cores} cores" if self.cores > 1 else "one core"
            yield run
        for run in (runs[id(job)] for job in narrow):
            run.cores, run.where = cores, where
            yield run

    def _sides(self) -> tuple[list[Planned], list[Planned]]:
        """The runs that take all cores, one after another, and those that take one each, side by side."""
        return [run for run in self.runs if 1 < run.cores == self.cores], [run for run in self.runs if run.cores == 1]

    @property
    def seconds(self) -> float:
        """Predicted wall time of the sweep."""
        if self.cluster is not None:
            # Here, more than there are cores for take turns.
            room = max(1, self.cores // self.runs[0].cores) if self.here else self.at_once
            return makespan([run.seconds() for run in self.runs], min(self.at_once, room))
        wide, narrow = self._sides()
        one_after_another = sum(run.seconds() for run in wide)
        return one_after_another + makespan([run.seconds() for run in narrow], 1 if self.gpu else self.cores)

    @property
    def memory(self) -> int:
        """Bytes of this machine's memory at the peak, or of the largest job elsewhere, at most."""
        if self.gpu:
            return self.shared + CONTEXT + _largest(GPU_STREAMS, [run.memory.start for run in self.runs])
        if self.cluster is not None:
            return self.shared * self.copies + _largest(self.copies, map(_process, self.runs))
        wide, narrow = self._sides()
        return self.shared + max([*map(_process, wide), _largest(self.cores, map(_process, narrow))])

    @property
    def gpu_memory(self) -> int:
        """Bytes of the GPU's memory at the peak, at most; the data are on it already."""
        held = torch.cuda.memory_allocated(self.device)
        return held + CONTEXT + _largest(GPU_STREAMS, [run.memory.training for run in self.runs])

    @property
    def disk(self) -> int:
        """Bytes of states and metrics; a new state is written before an old one goes."""
        return sum(run.disk for run in self.runs) + _largest(self.at_once, [run.memory.weights for run in self.runs])

    def lacking(self) -> list[str]:
        """What does not fit, a line each."""
        lines, there, what = [], machine_memory(), "of memory"
        if self.cluster is not None and not self.here:
            there = self.cluster.memory or float("inf")
            what = f"of hydra.launcher.mem_gb={there / GIB:.0f}"
        if self.memory > there:
            large = [run.job.label for run in self.runs if self.shared + _process(run) > there]
            more = f" and {len(large) - 3} more" if len(large) > 3 else ""
            least = f"{'hydra/launcher=local ' if self.cluster else ''}threads=1 takes the least"
            why = f"too large by itself: {', '.join(large[:3])}{more}" if large else least
            lines.append(f"memory: {size(self.memory)} at the peak, {size(there)} {what}; {why}")
        if self.gpu and self.gpu_memory > self._card():
            lines.append(f"GPU memory: {size(self.gpu_memory)} at the peak, of {size(self._card())} on the card")
        if self.disk > free_bytes(self.top):
            lines.append(f"disk: {size(self.disk)}, of {size(free_bytes(self.top))} free at dir={self.top}")
        return lines

    def _card(self) -> int:
        return torch.cuda.mem_get_info(self.device)[1]

    def table(self) -> str:
        """A line for each run, in the order of the schedule."""
        columns = {
            "run": lambda run: run.job.label,
            "weights": lambda run: f"{run.memory.weights // run.experiment.blueprint.dtype.itemsize:,}",
            "steps": lambda run: run.job.steps,
            "GFLOP/step": lambda run: f"{run.job.flops / 1e9:.3g}",
            "to draw": lambda run: size(run.memory.start),
            "to train": lambda run: size(run.memory.training),
            "on the GPU" if self.device.type == "cuda" else "one core": lambda run: duration(run.seconds(1)),
            "where": lambda run: run.where,
        }
        return pd.DataFrame({name: map(of, self.runs) for name, of in columns.items()}).to_string(index=False)

    def totals(self, timing: float) -> str:
        """The sweep as a whole, as told after so many seconds of timing."""
        held = f"at the peak, of {size(machine_memory())}" if self.here else "of the largest job"
        lines = [
            f"time    {self._time()}; steps timed here in {duration(timing)}",
            f"memory  {size(self.memory)} {held}; imports and data are {size(self.shared * self.copies)} of it",
            f"disk    {size(self.disk)}, of {size(free_bytes(self.top))} free at dir={self.top}",
            f"steps   {sum(r.job.steps * r.job.flops for r in self.runs):.3g} floating point operations in all",
        ]
        if self.gpu:
            lines.insert(2, f"GPU     {size(self.gpu_memory)} at the peak, of {size(self._card())}")
        return "\n".join([*lines, *(f"DOES NOT FIT  {line}" for line in self.lacking())])

    def _time(self) -> str:
        total = duration(self.seconds)
        if self.gpu:
            return f"{total} one after another, less where {GPU_STREAMS} share the GPU"
        alone = f"on {self.cores} cores" if self.cores > 1 else "on one core"
        if self.cluster is None:
            return f"{total} {alone} that nothing else uses"
        each = [run.seconds() for run in self.runs]
        at_once = f"{self.cluster.at_once} at once" if self.cluster.at_once else "all at once"
        text = f"{total}, {len(each)} jobs, {at_once}; the longest {duration(max(each))}"
        if self.cluster.seconds:
            text += f", requeued {int(max(each) // self.cluster.seconds)} times under hydra.launcher.timeout_min"
        if self.cluster.gpus:
            text += f"; {sum(each) / 3600 * self.cluster.gpus:.3g} GPU hours"
        return f"{text}; {alone} that nothing else uses" if self.here else f"{text}; a node may be faster or slower"


def _largest(count: int, sizes: Iterable[int]) -> int:
    """The largest sum of so many of them."""
    return sum(sorted(sizes)[-count:])


def _process(run: Planned) -> int:
    """Bytes of a run's process at its peak, without what all processes share."""
    return PROCESS + max(run.memory.start, run.memory.training)


def _resident() -> int:
    """Bytes of this process in memory."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # There is no Linux.
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
