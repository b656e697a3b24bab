"""A run as Hydra's launchers train it: checked here beforehand, trained here or in a process that a launcher starts."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from mfrun import config
from mfrun.dynamics import continued
from mfrun.dynamics.continued import own_data, refuse_changes
from mfrun.dynamics.experiment import Experiment, Problems, assemble, resolve_device
from mfrun.dynamics.train import train
from mfrun.errors import Interrupted, UserError, of_the_system, out_of_memory, unforeseen
from mfrun.runs.directory import RunDirectory
from mfrun.runs.loggers import loggers
from mfrun.runs.progress import Runs, say
from mfrun.runs.requeue import requeued_on_signal
from mfrun.runs.signals import STOPPING
from mfrun.shell import hydra
from mfrun.sweeps import side_by_side


@dataclass(frozen=True)
class Run:
    """A run whose configuration and data make sense.

    Attributes:
        folder: where it is written, which need not be there yet.
        content: the keys that decide what it computes.
        experiment: what it consists of.
        held: keys, with their values, that name data which may have become others since the run was begun.
    """

    folder: RunDirectory
    content: dict[str, Any]
    experiment: Experiment
    held: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def checked(cls, node: DictConfig, folder: RunDirectory, problems: Problems, elsewhere: bool = False) -> Run:
        """Assemble the run of a configuration, before anything is written.

        Args:
            node: the keys of the run.
            folder: where it goes.
            problems: the data sets that are loaded already.
            elsewhere: it will be trained on another machine, whose devices are not known here.

        Raises:
            UserError: bad values, bad data, or changes of a run that exists.
        """
        cfg = config.validated(node)
        if elsewhere:
            cfg = replace(cfg, device="cpu", precision="float32")
            if folder.exists() and not cfg.resume:
                raise UserError(f"dir={folder.path}: holds a run already; resume=true goes on with it")
        experiment = assemble(cfg, problems(cfg))
        loggers(cfg.logger)
        content = config.content(node)
        held = dict[str, Any]()
        # What is not to be gone on with is refused as that, by who takes the folder.
        if cfg.resume and folder.exists():
            moved = refuse_changes(folder, content, growing=not experiment.schedule.needs_end)
            held = moved or own_data(content)
        return cls(folder, content, experiment, held)

    @property
    def name(self) -> str:
        """What it is called in its sweep."""
        return self.folder.path.name

    @property
    def finished(self) -> bool:
        """Whether a resumed sweep has nothing left to do here."""
        ended = self.folder.exists() and self.folder.done()
        return ended and self.folder.status().get("steps") == self.experiment.cfg.steps

    @property
    def steps(self) -> int:
        """Still to do."""
        return self.experiment.cfg.steps - int(self.folder.status().get("step", 0))

    def settle(self) -> None:
        """Where nothing is left to train, write where the data lie now, for what reads the run."""
        if self.finished:
            self.folder.create(self.content, self.experiment.problem.classes)

    def job(self, go: Callable[[int], bool] = bool) -> side_by_side.Job:
        """What the schedule has to know about it.

        Args:
            go: trains it on so many threads, and says whether that went well.
        """
        return side_by_side.Job(go, self.name, self.steps, self.experiment.flops)

    def train(self, threads: int | None) -> None:
        """Train it as one of a sweep, on so many threads; None leaves their number as it is."""
        experiment = replace(self.experiment, cfg=replace(self.experiment.cfg, threads=threads))
        train(experiment, self.content, self.folder, self.name)


def refuse_other_data(runs: Sequence[Run]) -> None:
    """Hold each data set to what the smallest of the runs that have begun has measured on it: all have seen the same.

    Raises:
        ConfigError: it is another.
    """
    begun = [run for run in runs if run.held and not run.folder.metrics().empty]
    smallest = {id(run.experiment.problem): run for run in sorted(begun, key=lambda run: -run.experiment.flops)}
    for run in smallest.values():
        continued.refuse_other_data(run.experiment, run.folder, run.held)


def train_job(node: DictConfig) -> bool:
    """What Hydra calls in a process that a launcher has started.

    Args:
        node: the keys of the run.

    Returns:
        Whether the run ended well. Errors are told here: not every launcher could send them back.
    """
    config.store_schema()  # The process does not know it.
    folder = RunDirectory(HydraConfig.get().runtime.output_dir)

    def go() -> None:
        cfg = config.validated(node)
        # The sweep has made sure of what each folder holds; a run that is there now was begun by this job, which has
        # been requeued.
        cfg.resume = True
        Run(folder, config.content(node), assemble(cfg, Problems()(cfg))).train(cfg.threads)

    with requeued_on_signal():
        return told(folder.path.name, go)


@contextmanager
def stopped_together(runs: Sequence[Run]) -> Iterator[None]:
    """Within it, the signals that stop this process stop the runs that joblib trains in processes of its own.

    joblib kills those processes where this one is stopped by Ctrl-C, and leaves them to train on at SIGTERM. Here the
    runs that have begun save their states first; a second signal does not wait for that.

    Args:
        runs: of the sweep.

    Raises:
        Interrupted: SIGINT or SIGTERM.
    """
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt
        processes = {process.pid for process in multiprocessing.active_children()}
        statuses = [(run.folder, run.folder.status()) for run in runs]
        # One that is about to begin has nothing to save.
        begun = {status["pid"]: folder for folder, status in statuses if status["state"] == "running"}
        training = {pid: folder for pid, folder in begun.items() if pid in processes}
        for pid in training:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        while not all(folder.free() for folder in training.values()):
            time.sleep(0.05)
        raise Interrupted(number)

    before = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def told(name: str, go: Callable[[], object]) -> bool:
    """Call ``go``; say which run it was where that fails, which must not take the other runs of a sweep with it."""
    try:
        go()
        return True
    except UserError as error:
        say(f"mfrun: {name}: {error}")
    except OSError as error:  # The disk is full, or gone; where in the code tells nobody anything.
        say(f"mfrun: {name}: {of_the_system(error)}")
    except Exception as error:
        say(f"mfrun: {name}: {unforeseen(error)}")
        if not out_of_memory(error):  # Where it was asked for tells nobody anything, either.
            traceback.print_exc(file=sys.stderr)
    return False


class SideBySide(Launcher):
    """``hydra/launcher=local``: the runs of a sweep in processes of this machine, or as streams of its GPU.

    Args:
        runs: assembled by this process, by the words of their jobs.
    """

    def __init__(self, runs: Mapping[tuple[str, ...], Run]) -> None:
        self.runs = runs
        # Hydra keeps the configuration of the job in hand in one place for all threads of a process.
        self.hydra_is_in_use = threading.Lock()

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called before :meth:`launch`, with what launchers need that have not assembled the runs themselves."""
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Train the runs that are not finished."""
        numbered = dict(enumerate(job_overrides, initial_job_idx))
        left = {n: words for n, words in numbered.items() if not self.runs[tuple(words)].finished}
        jobs = {n: self._job(words, n) for n, words in left.items()}
        cfg = self.runs[tuple(job_overrides[0])].experiment.cfg
        cost = sum(job.seconds(1) for job in jobs.values())
        with Runs(len(numbered), len(numbered) - len(jobs), cost):
            device = resolve_device(cfg.device)
            if device.type == "cuda":
                # How products are rounded is a process's choice, not a thread's.
                alike: dict[str, list[side_by_side.Job]] = {}
                for n, words in left.items():
                    alike.setdefault(self.runs[tuple(words)].experiment.cfg.precision, []).append(jobs[n])
                failed = [job for some in alike.values() for job in side_by_side.run_on_streams(some, device)]
            else:
                cores = cfg.threads or side_by_side.available_cores()
                failed = side_by_side.run_side_by_side(list(jobs.values()), cores)
        results = []
        for n, words in numbered.items():
            results.append(JobReturn(overrides=words, status=JobStatus.COMPLETED))
            results[-1].return_value = jobs.get(n) not in failed
        return results

    def _job(self, words: Sequence[str], number: int) -> side_by_side.Job:
        run = self.runs[tuple(words)]

        def go(threads: int) -> bool:
            def task(node: DictConfig) -> None:
                self.hydra_is_in_use.release()
                try:
                    run.train(threads)
                finally:
                    self.hydra_is_in_use.acquire()

            with self.hydra_is_in_use:
                return told(run.name, lambda: hydra.job(self.context, self.config, words, number, task))

        return run.job(go)
