"""The runs of a sweep on this machine: small ones side by side, one core each, large ones on all cores, longest first.

Every run is a process of its own that inherits the data of this one, so that all share one copy in memory. On a GPU
they are threads with a stream each, so that the kernels of small networks fill the card together.
"""

from __future__ import annotations

import ctypes
import heapq
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from mfrun.errors import Interrupted
from mfrun.runs.progress import Runs, in_sweep, say
from mfrun.runs.signals import STOPPING, Signals

if TYPE_CHECKING:
    import torch

# Seconds of a step beside its operations, and operations a second of a core; only the ratio matters for the schedule.
STEP_SECONDS, CORE_SPEED = 1e-4, 8e10
# The share of its speed that a core keeps when all work on one product, and the operations of a step that allow it.
SHARED_SPEED, DIVISIBLE_STEP = 0.93, 2e7
# Whether a process that has used threads can be copied safely, so that runs can lie side by side.
CAN_FORK = sys.platform == "linux"
# Runs that share a GPU.
GPU_STREAMS = 4
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Job:
    """A run of a sweep.

    Attributes:
        go: trains it with the given number of threads, and says whether that went well.
        label: names it in messages.
        steps: still to do.
        flops: floating point operations of a step.
    """

    go: Callable[[int], bool]
    label: str
    steps: int
    flops: float

    def seconds(self, cores: int) -> float:
        """Predicted time on so many cores."""
        return self.steps * step_seconds(self.flops, cores)


def step_seconds(flops: float, cores: int) -> float:
    """Predicted time of a step of so many operations."""
    speed = CORE_SPEED * (1 if flops < DIVISIBLE_STEP or cores == 1 else SHARED_SPEED * cores)
    return STEP_SECONDS + flops / speed


def schedule(jobs: Sequence[Job], cores: int) -> tuple[list[Job], list[Job]]:
    """Which runs take all cores, one after the other, and which one core each, side by side.

    Returns:
        (wide, narrow), each longest first: the split of the runs by length that ends soonest, as predicted.
    """
    longest = longest_first(jobs)
    if not CAN_FORK:
        return longest, []

    def end(k: int) -> float:
        return sum(job.seconds(cores) for job in longest[:k]) + makespan([j.seconds(1) for j in longest[k:]], cores)

    k = min(range(len(longest) + 1), key=end)
    return longest[:k], longest[k:]


def longest_first(jobs: Sequence[Job]) -> list[Job]:
    """In the order in which they start."""
    return sorted(jobs, key=lambda job: -job.seconds(1))


def makespan(seconds: Sequence[float], cores: int) -> float:
    """When the last of these ends, if each core takes the next in order as soon as it is free."""
    free = [0.0] * cores
    for s in seconds:
        heapq.heapreplace(free, free[0] + s)
    return max(free)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_side_by_side(jobs: Sequence[Job], cores: int) -> list[Job]:
    """Train on the CPU.

    Returns:
        The jobs that failed.

    Raises:
        Interrupted: SIGINT or SIGTERM; the runs in hand have saved their states.
    """
    wide, narrow = schedule(jobs, cores)
    if not CAN_FORK:
        unwell = list[Job]()
        for job in wide:
            with in_sweep(1):
                if not job.go(cores):
                    unwell.append(job)
            if Runs.current:
                Runs.current.one_more(job.seconds(1))
        return unwell
    with _Processes() as processes:
        for job in wide:
            processes.run([job], side_by_side=1, threads=cores)
        processes.run(narrow, side_by_side=cores, threads=1)
    if processes.received:
        raise Interrupted(processes.received)
    return processes.failed


def run_on_streams(jobs: Sequence[Job], device: torch.device) -> list[Job]:
    """Train on the GPU, several at a time.

    Returns:
        The jobs that failed.

    Raises:
        Interrupted: SIGINT or SIGTERM; the runs in hand have saved their states.
    """
    import torch

    slots, failed = list(range(GPU_STREAMS, 0, -1)), list[Job]()

    def go(job: Job) -> None:
        slot = slots.pop()
        if not Signals.received:
            stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            with torch.cuda.device(device), torch.cuda.stream(stream), in_sweep(slot):
                if not job.go(1):
                    failed.append(job)
            if Runs.current and not Signals.received:
                Runs.current.one_more(job.seconds(1))
        slots.append(slot)

    with Signals(), ThreadPoolExecutor(GPU_STREAMS) as pool:
        for _ in pool.map(go, longest_first(jobs)):
            pass
        received = Signals.received
    if received:
        raise Interrupted(received)
    return failed


class _Processes:
    """One process for each run in hand; the signals that stop this process stop them."""

    def __init__(self) -> None:
        self.failed: list[Job] = []
        self.received = 0
        self._running: dict[Any, tuple[Job, int]] = {}
        self._before: dict[int, Any] = {}

    def run(self, jobs: Sequence[Job], side_by_side: int, threads: int) -> None:
        """Train all of them, so many at a time."""
        waiting, free = list(jobs), list(range(side_by_side, 0, -1))
        while (waiting and not self.received) or self._running:
            while waiting and free and not self.received:
                slot = free.pop()
                process = multiprocessing.get_context("fork").Process(
                    target=_child, args=(waiting[0], threads, slot, os.getpid())
                )
                # The run has no ear for signals yet; those that come are kept for it until it has.
                signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
                try:
                    with in_sweep(slot):
                        process.start()
                    self._running[process] = (waiting.pop(0), slot)
                finally:
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
                if self.received:  # Before it was among those to stop.
                    os.kill(process.pid or 0, signal.SIGTERM)
            ended = wait([process.sentinel for process in self._running])
            for process in [p for p in self._running if p.sentinel in ended]:
                process.join()
                job, slot = self._running.pop(process)
                free.append(slot)
                self._note(job, process.exitcode or 0)

    def _note(self, job: Job, code: int) -> None:
        # Those that are stopped have ended, and are not done.
        if Runs.current and not self.received:
            Runs.current.one_more(job.seconds(1))
        if code and not self.received:
            self.failed.append(job)
            if code < 0:
                say(f"mfrun: {job.label}: its process was killed by signal {-code}; resume=true goes on with it")

    def __enter__(self) -> _Processes:
        for number in STOPPING:
            self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        for process in self._running:
            process.kill()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = number
        for process in self._running:
            os.kill(process.pid or 0, signal.SIGTERM)


def _child(job: Job, threads: int, slot: int, parent: int) -> None:
    """What a run's process does."""
    # The run does not outlive the sweep, even one that is killed.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    # Ctrl-C reaches this process from the terminal and again from the sweep; once is enough to stop at the next step.
    Signals.patient = True
    with Signals():
        # What came since this process began is heard now, and until the run's first step there is nothing to stop.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        try:
            done = job.go(threads)
        except Interrupted:
            done = True
        except BaseException:
            done = False
    sys.stderr.flush()
    os._exit(0 if done else 1)
