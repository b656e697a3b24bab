"""``mfrun sweep --dry-run``: what a sweep would take, where its runs would go, and what does not fit.

The order of the runs and where they go are those of the schedule itself (:mod:`mfrun.sweeps.side_by_side`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from mfrun.files import free_bytes
from mfrun.runs.status import duration
from mfrun.sweeps import side_by_side
from mfrun.sweeps.estimate import Planned, measure
from mfrun.sweeps.jobs import Run

# Bytes of a run's process beside its arrays and what all processes share, and of a CUDA context.
PROCESS, CONTEXT = 60 * 2**20, 600 * 2**20
GIB = 2**30


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
    """

    name: str
    at_once: int | None = None
    cores: int | None = None
    gpus: int | None = None
    seconds: float | None = None
    memory: float | None = None

    @staticmethod
    def of(name: str, keys: Any) -> Cluster:
        """From the launcher's own keys, ``hydra.launcher``."""
        get = keys.get
        at_once = get("array_parallelism") if name == "submitit_slurm" else get("n_jobs")
        limit = get("timeout_min") if name == "submitit_slurm" else None
        return Cluster(
            name,
            at_once if at_once and at_once > 0 else None,
            get("cpus_per_task"),
            get("gpus_per_node"),
            limit * 60 - (get("signal_delay_s") or 0) if limit else None,
            get("mem_gb") * GIB if get("mem_gb") else None,
        )


@dataclass(frozen=True)
class Placed:
    """A run and where it goes.

    Attributes:
        cores: that it has for itself.
        where: the same in words.
    """

    run: Planned
    cores: int
    where: str

    @property
    def seconds(self) -> float:
        """Predicted, where it goes."""
        return self.run.seconds(self.cores)


class Plan:
    """What the runs that are left of a sweep would take.

    Args:
        runs: in the order in which they were given; not empty. Measured here.
        top: the sweep's folder, which need not be there.
        threads: cores to take; None for all.
        cluster: who trains them, where that is not this machine.
    """

    def __init__(self, runs: Sequence[Planned], top: Path, threads: int | None, cluster: Cluster | None = None) -> None:
        self.top, self.cluster = top, cluster
        # The data are loaded by now, and all processes share them.
        self.shared = _resident()
        self.calibration = measure(runs)
        self.device = runs[0].experiment.device
        self.cores = threads or side_by_side.cores()
        self.placed = list(self._place(runs, threads))

    def _place(self, runs: Sequence[Planned], threads: int | None) -> Iterator[Placed]:
        of = {id(run.job): run for run in runs}
        if self.cluster is not None:
            cores = threads or self.cluster.cores or 1
            for run in runs:
                yield Placed(run, cores, f"{self.cluster.name} job")
        elif self.device.type == "cuda":
            for job in side_by_side.longest_first([run.job for run in runs]):
                yield Placed(of[id(job)], 1, "GPU stream")
        else:
            wide, narrow = side_by_side.schedule([run.job for run in runs], self.cores)
            for job in wide:
                yield Placed(of[id(job)], self.cores, f"all {self.cores} cores" if self.cores > 1 else "one core")
            for job in narrow:
                yield Placed(of[id(job)], 1, "one core")

    def _sides(self) -> tuple[list[Placed], list[Placed]]:
        """The runs that take all cores, one after another, and those that take one each, side by side."""
        wide = [p for p in self.placed if 1 < p.cores == self.cores]
        return wide, [p for p in self.placed if p.cores == 1]

    @property
    def seconds(self) -> float:
        """Predicted wall time of the sweep."""
        if self.cluster is not None:
            return side_by_side.makespan([p.seconds for p in self.placed], self.cluster.at_once or len(self.placed))
        if self.device.type == "cuda":
            return sum(p.seconds for p in self.placed)
        wide, narrow = self._sides()
        return sum(p.seconds for p in wide) + side_by_side.makespan([p.seconds for p in narrow], self.cores)

    @property
    def memory(self) -> int:
        """Bytes of this machine's memory at the peak, at most."""
        if self.device.type == "cuda":
            return self.shared + CONTEXT + sum(sorted(p.run.memory.start for p in self.placed)[-side_by_side.STREAMS :])
        if self.cluster is not None:
            return self.shared + max(map(_process, self.placed))
        wide, narrow = self._sides()
        return self.shared + max([*map(_process, wide), sum(sorted(map(_process, narrow))[-self.cores :])])

    @property
    def gpu_memory(self) -> int:
        """Bytes of the GPU's memory at the peak, at most; the data are on it already."""
        held = torch.cuda.memory_allocated(self.device)
        return held + CONTEXT + sum(sorted(p.run.memory.training for p in self.placed)[-side_by_side.STREAMS :])

    @property
    def disk(self) -> int:
        """Bytes of states and metrics; a new state is written before an old one goes."""
        weights = [p.run.memory.weights for p in self.placed]
        return sum(p.run.disk for p in self.placed) + sum(sorted(weights)[-self.cores :])

    @property
    def flops(self) -> float:
        """Floating point operations of all steps."""
        return sum(p.run.job.steps * p.run.job.flops for p in self.placed)

    def lacking(self) -> list[str]:
        """What does not fit, a line each."""
        lines = []
        here = self.cluster.memory if self.cluster is not None else _machine_memory()
        if here is not None and self.memory > here:
            what = "of memory" if self.cluster is None else f"of hydra.launcher.mem_gb={here / GIB:.0f}"
            lines.append(f"memory: {_bytes(self.memory)} at the peak, {_bytes(here)} {what}{self._culprits(here)}")
        if self.cluster is None and self.device.type == "cuda":
            card = torch.cuda.mem_get_info(self.device)[1]
            if self.gpu_memory > card:
                lines.append(f"GPU memory: {_bytes(self.gpu_memory)} at the peak, of {_bytes(card)} on the card")
        free = free_bytes(self.top)
        if self.disk > free:
            lines.append(f"disk: {_bytes(self.disk)}, of {_bytes(free)} free at dir={self.top}")
        return lines

    def _culprits(self, here: float) -> str:
        """The runs that do not fit even by themselves."""
        large = [p.run.job.label for p in self.placed if self.shared + _process(p) > here]
        if not large:
            return "; fewer side by side take less, threads=1 the least"
        more = f" and {len(large) - 3} more" if len(large) > 3 else ""
        return f"; too large by itself: {', '.join(large[:3])}{more}"

    def table(self) -> str:
        """A line for each run, in the order of the schedule."""
        rows = []
        for p in self.placed:
            memory = p.run.memory
            rows.append(
                {
                    "run": p.run.job.label,
                    "weights": f"{memory.weights // p.run.experiment.blueprint.dtype.itemsize:,}",
                    "steps": p.run.job.steps,
                    "GFLOP/step": f"{p.run.job.flops / 1e9:.3g}",
                    "to draw": _bytes(memory.start),
                    "to train": _bytes(memory.training),
                    "on the GPU" if self.device.type == "cuda" else "one core": duration(p.run.seconds(1)),
                    "where": p.where,
                }
            )
        return pd.DataFrame(rows).to_string(index=False)

    def totals(self) -> str:
        """The sweep as a whole."""
        lines = [f"time    {self._time()}"]
        if self.cluster is None:
            held = f"{_bytes(self.memory)} at the peak, of {_bytes(_machine_memory())}"
        else:
            held = f"{_bytes(self.memory)} of the largest job"
        lines.append(f"memory  {held}; imports and data are {_bytes(self.shared)} of it")
        if self.cluster is None and self.device.type == "cuda":
            card = torch.cuda.mem_get_info(self.device)[1]
            lines.append(f"GPU     {_bytes(self.gpu_memory)} at the peak, of {_bytes(card)}")
        lines.append(f"disk    {_bytes(self.disk)}, of {_bytes(free_bytes(self.top))} free at dir={self.top}")
        lines.append(f"steps   {self.flops:.3g} floating point operations in all")
        lacking = self.lacking()
        return "\n".join([*lines, *(f"DOES NOT FIT  {line}" for line in lacking)])

    def _time(self) -> str:
        seconds, measured = self.seconds, f"steps timed here in {duration(self.calibration)}"
        if self.cluster is None and self.device.type == "cuda":
            return f"{duration(seconds)} one after another, less where {side_by_side.STREAMS} share the GPU; {measured}"
        if self.cluster is None:
            cores = f"{self.cores} cores" if self.cores > 1 else "one core"
            return f"{duration(seconds)} on {cores} that nothing else uses; {measured}"
        longest = max(p.seconds for p in self.placed)
        at_once = f"{self.cluster.at_once} at once" if self.cluster.at_once else "all at once"
        text = f"{duration(seconds)}, {len(self.placed)} jobs, {at_once}; the longest {duration(longest)}"
        if self.cluster.seconds:
            again = int(longest // self.cluster.seconds)
            text += f", requeued {again} times under hydra.launcher.timeout_min"
        if self.cluster.gpus:
            hours = sum(p.seconds for p in self.placed) / 3600 * self.cluster.gpus
            text += f"; {hours:.3g} GPU hours"
        device = "this GPU" if self.device.type == "cuda" else "this machine's cores"
        return f"{text}; as timed on {device}, a node's may differ"


def _process(placed: Placed) -> int:
    """Bytes of a run's process at its peak, without what all processes share."""
    return PROCESS + max(placed.run.memory.start, placed.run.memory.training)


def _resident() -> int:
    """Bytes of this process in memory."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no Linux
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _machine_memory() -> int:
    """Bytes that processes here may have: the machine's, or less where a control group says so."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    root = Path("/sys/fs/cgroup")
    try:
        own = root / Path("/proc/self/cgroup").read_text().split("0::", 1)[1].splitlines()[0].lstrip("/")
    except (OSError, IndexError):
        own = root
    for folder in (own, *own.parents):
        for name in ("memory.max", "memory/memory.limit_in_bytes"):
            try:
                found.append(int((folder / name).read_text()))
            except (OSError, ValueError):  # none, or "max"
                continue
    return min(found)


def _bytes(count: float) -> str:
    """``4.2 MiB``, ``120 GiB``."""
    if count < GIB:
        return f"{count / 2**20:.3g} MiB"
    return f"{count / GIB:.3g} GiB" if count < 1024 * GIB else f"{count / GIB / 1024:.3g} TiB"


def plan(runs: Sequence[Run], top: Path, threads: int | None, cluster: Cluster | None = None) -> int:
    """Say what the sweep would take; 1 where it does not fit."""
    left = [Planned(run.job(), run.experiment) for run in runs if not run.finished]
    if len(left) < len(runs):
        print(f"{len(runs) - len(left)} of {len(runs)} runs are done\n")
    if not left:
        return 0
    plan = Plan(left, top, threads, cluster)
    print(f"{plan.table()}\n\n{plan.totals()}")
    return 1 if plan.lacking() else 0
