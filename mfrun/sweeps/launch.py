"""``mfrun train`` and ``mfrun sweep``: from the words of the command line to runs, through Hydra's launchers."""

from __future__ import annotations

import functools
import importlib
import itertools
import math
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from mfrun import config
from mfrun.errors import ConfigError, Interrupted, UserError
from mfrun.registry import distrust, quote, reason
from mfrun.runs.directory import SWEEP, RunDirectory, hold_sweep, newest, write_sweep
from mfrun.runs.loggers import Tolerated
from mfrun.runs.progress import WRITES_TO, say
from mfrun.shell import commandline, hydra
from mfrun.shell.compose import compose_jobs, folder, keys, made
from mfrun.sweeps import resume

if TYPE_CHECKING:
    from mfrun.sweeps.jobs import Run

# Of a folder's name, in bytes, as file systems have it.
LONGEST = 255


def train(argv: list[str]) -> int:
    """Train one configuration."""
    if hydra.only_prints("train", argv, functools.partial(_printed, "train")):
        return 0
    run = train_run(*commandline.split(with_latest(argv, "train")))

    from mfrun.runs.status import table

    print(table([run.folder]))
    return 3 if run.folder.status()["state"] == "diverged" else 0


def train_run(flags: list[str], overrides: list[str]) -> Run:
    """Train the one configuration that the words of a command line ask for.

    Args:
        flags: Hydra's.
        overrides: the words that set keys.

    Raises:
        UserError: they make no sense.
        Interrupted: the run was stopped, and its state is saved.
    """
    distrust(set())
    _refuse_several(overrides)
    whole = resume.asked(overrides, flags)
    if keys(whole).resume:
        saved = resume.words_of_run(folder(keys(whole)))
        _, whole = resume.resumed(saved, overrides, flags)
    node = keys(whole)
    _refuse_chdir(whole)

    from mfrun.dynamics.experiment import Problems
    from mfrun.dynamics.train import train
    from mfrun.dynamics.warnings import warn
    from mfrun.sweeps.estimate import refuse_too_large
    from mfrun.sweeps.jobs import Run, refuse_other_data
    from mfrun.sweeps.side_by_side import available_cores

    with _own_folder(folder(node), overrides) as path, _resumable("train", path, flags):
        directory = RunDirectory(path)
        begun = directory.exists()
        if begun and not node.resume:
            raise UserError(f"dir={path}: holds a run already; resume=true goes on with it")
        if (path / SWEEP).is_file():
            raise UserError(f"dir={path}: holds a sweep, and a run needs a folder of its own")
        try:
            if begun:  # Its words are not written anew while another process goes by them.
                directory.lock()
            run = Run.checked(node, directory, Problems())
            refuse_other_data([run])
            refuse_too_large([run.experiment])
            warn([run.experiment], available_cores())
            run.settle()
            if not begun:
                made(path)
                directory.lock()
                if directory.exists():  # It was begun, and ended, while this one made ready.
                    raise UserError(f"dir={path}: another process has just begun a run in this folder")
            hydra.run(whole, path, lambda _: train(run.experiment, run.content, directory))
        finally:
            directory.unlock()
    return run


def _refuse_several(overrides: list[str]) -> None:
    """Refuse what is typed for several runs; the widths of a preset, which a sweep takes as well, are passed over.

    Raises:
        UserError: it is there.
    """
    for o in commandline.parse(overrides):
        if o.is_sweep_override():
            raise UserError(f"{commandline.line(o)}: several values; mfrun sweep trains one run for each")
        if o.key_or_group == "widths":
            why = "mfrun sweep trains one run for each; width=N is this command's"
            raise UserError(f"{commandline.line(o)}: {why}")


def _printed(command: str, overrides: list[str], flags: list[str]) -> list[str]:
    """The overrides of the run whose composition Hydra prints: of a sweep the first; what is resumed has its own.

    Raises:
        UserError: the words make no sense.
    """
    overrides = with_latest([word for word in overrides if word != "--dry-run"], command)
    if command == "train":
        _refuse_several(overrides)
    whole = resume.asked(commandline.first(overrides), flags)
    node = keys(whole, complete=False)
    if node.resume:
        saved = (resume.words_of_run if command == "train" else resume.words_of_sweep)(folder(node))
        overrides, whole = resume.resumed(saved, overrides, flags)
    return commandline.jobs(_with_widths(overrides, whole))[0] if command == "sweep" else overrides


def sweep(argv: list[str]) -> int:
    """Train every width, and every value of every swept key: a Hydra multirun."""
    if hydra.only_prints("sweep", argv, functools.partial(_printed, "sweep")):
        return 0
    distrust(set())
    words = with_latest([word for word in argv if word != "--dry-run"], "sweep")
    flags, overrides = commandline.split(words)
    master = resume.asked(commandline.first(overrides), flags)
    if "--dry-run" in argv:
        return _dry_run(_Sweep.of(flags, overrides, master, folder(keys(master))))
    top, runs, well = _swept("sweep", flags, overrides, master)

    from mfrun.runs.status import table

    print(table([run.folder for run in runs]))
    print(f"\n{shlex.join(['mfrun', 'plot', str(top)])}")
    if not well or not all(run.folder.done() for run in runs):
        return 1
    # A sweep over alpha may find where training diverges; one that finds nothing else has trained nothing.
    return 3 if all(run.folder.status()["state"] == "diverged" for run in runs) else 0


def sweep_runs(command: str, flags: list[str], overrides: list[str]) -> tuple[Path, list[Run]]:
    """Train the runs of a sweep for another command.

    Args:
        command: its name.
        flags: Hydra's.
        overrides: the words that set keys.

    Returns:
        The sweep's folder, and its runs.

    Raises:
        UserError: the words make no sense, or a run failed.
        Interrupted: it was stopped, and its state is saved.
    """
    distrust(set())
    top, runs, well = _swept(command, flags, overrides, resume.asked(commandline.first(overrides), flags))
    unfinished = [run.name for run in runs if not run.folder.done()]
    if unfinished or not well:
        raise UserError(f"{top}: {', '.join(unfinished)} failed; {_status(top)}")
    return top, runs


def _swept(command: str, flags: list[str], overrides: list[str], master: DictConfig) -> tuple[Path, list[Run], bool]:
    """Train the runs of a sweep; its folder, its runs, and whether the launcher says that all went well."""
    with (
        _own_folder(folder(keys(master)), overrides) as top,
        _resumable(command, top, flags),
    ):
        asked = _Sweep.of(flags, overrides, master, top)
        runs = asked.checked()
        asked.refuse_without_slurm()
        if asked.local:
            from mfrun.sweeps.estimate import refuse_too_large

            refuse_too_large([run.experiment for run in runs if not run.finished])
        with hold_sweep(made(top), resume=asked.base.resume):
            say(f"{WRITES_TO}{top}")
            _warn(runs, asked.local)
            asked.record()
            for run in runs:
                run.settle()
            well = asked.train(runs)
            Tolerated(asked.base.logger).tell("finish_sweep", top)
    return top, runs, well


def _status(top: Path) -> str:
    """The command that says how a sweep stands, as it is typed."""
    return shlex.join(["mfrun", "status", str(top)])


def _dry_run(asked: _Sweep) -> int:
    """Say what a sweep would take; 1 where it does not fit."""
    from mfrun.sweeps.plan import Cluster, plan

    runs = asked.checked()
    _warn(runs, asked.local)
    cluster = None if asked.local else Cluster.of(asked.launcher, asked.master.hydra.launcher)
    return plan(runs, asked.top, asked.base.threads, cluster)


def _warn(runs: list[Run], local: bool) -> None:
    from mfrun.dynamics.warnings import warn
    from mfrun.sweeps.side_by_side import available_cores

    warn([run.experiment for run in runs], available_cores() if local else None)


def with_latest(argv: list[str], command: str) -> list[str]:
    """The words with ``dir=`` in the place of ``--latest``.

    Raises:
        UserError: there is no run or sweep to go on with, or nobody has said that it should go on, or another is named.
    """
    if "--latest" not in argv:
        return argv
    if not any(word.replace(" ", "").lower() == "resume=true" for word in argv):
        raise UserError("--latest: goes on with the newest one below outputs, and needs resume=true beside it")
    words = [word for word in argv if word != "--latest"]
    if named := [word for word in words if commandline.translate(word).startswith("dir=")]:
        raise UserError(f"--latest: and {named[0]} names another; give one of them")
    return [*words, f"dir={newest(sweeps=command == 'sweep')}"]


@contextmanager
def _own_folder(path: Path, overrides: list[str]) -> Iterator[Path]:
    """The folder to write into: a default one becomes one that no other command has taken in the same second.

    It goes again where nothing has been written to it.
    """
    if any(o.key_or_group == "dir" for o in commandline.parse(overrides)):
        yield path
        return
    new = [parent for parent in path.parents if not parent.exists()]
    made(path.parent)
    for k in itertools.count(1):
        own = path if k == 1 else path.with_name(f"{path.name}_{k}")
        try:
            own.mkdir()
            break
        except FileExistsError:
            continue
    try:
        yield own
    finally:
        with suppress(OSError):  # Something is in it, as there should be.
            for empty in (own, *new):
                empty.rmdir()


@contextmanager
def _resumable(command: str, path: Path, flags: list[str]) -> Iterator[None]:
    """Where the command is stopped, say what goes on with it."""
    try:
        yield
    except Interrupted as stopped:
        stopped.again = resume.going_on(command, path, flags)
        raise


@dataclass(frozen=True)
class _Job:
    """One of a sweep.

    Attributes:
        whole: its configuration, with Hydra's own part.
        node: the keys in it.
    """

    whole: DictConfig
    node: DictConfig

    @property
    def name(self) -> str:
        """Of its folder below the sweep's."""
        return str(self.whole.hydra.sweep.subdir)

    @property
    def words(self) -> tuple[str, ...]:
        """What Hydra composes it of."""
        return tuple(map(str, [*self.whole.hydra.overrides.hydra, *self.whole.hydra.overrides.task]))


@dataclass(frozen=True)
class _Sweep:
    """What a command line asks for.

    Attributes:
        top: the sweep's folder.
        overrides: the words, with those that a resumed sweep was started with.
        parsed: the same, with what the sweep runs over.
        master: the whole configuration of its first job, which is Hydra's of the sweep.
        base: the keys in it.
        jobs: of which no two compute the same.
        launcher: by the name of its file.
    """

    top: Path
    overrides: list[str]
    parsed: list[Override]
    master: DictConfig
    base: DictConfig
    jobs: list[_Job]
    launcher: str

    @classmethod
    def of(cls, flags: list[str], overrides: list[str], master: DictConfig, top: Path) -> _Sweep:
        """Compose what the words ask for.

        Args:
            flags: Hydra's.
            overrides: the words that set keys.
            master: the whole configuration of the first of their values.
            top: the sweep's folder.

        Raises:
            UserError: they make no sense, or the folder does not allow it.
        """
        base = keys(master)
        if base.resume:
            overrides, master = resume.resumed(resume.words_of_sweep(top), overrides, flags)
            base = keys(master)
        elif (top / SWEEP).is_file():
            raise UserError(f"dir={top}: holds a sweep already; resume=true goes on with it")
        elif RunDirectory(top).exists():
            raise UserError(f"dir={top}: holds a run, and a sweep needs a folder of its own")
        launcher = _launcher(master)
        # A job that runs elsewhere may start in another folder.
        master.dir = str(top if launcher == "local" else top.absolute())
        parsed = _with_widths(overrides, master)
        composed = _composed(parsed, master, flags)
        for whole in (master, *(job.whole for job in composed)):
            _refuse_chdir(whole)
        jobs = _distinct(composed, top)
        return cls(top, overrides, parsed, master, base, jobs, launcher)

    @property
    def local(self) -> bool:
        """Whether its runs are trained by this process and those that it starts."""
        return self.launcher == "local"

    def checked(self) -> list[Run]:
        """Its runs, assembled where it is local.

        Raises:
            UserError: one of them makes no sense, or does not fit what the folder holds.
        """
        _refuse_folders(self.top, [job.name for job in self.jobs], grown=self.base.resume)

        from mfrun.dynamics.experiment import Problems
        from mfrun.sweeps.jobs import Run, refuse_other_data

        if self.local:
            import torch

            # A process that has used several threads cannot be copied, and the runs will be copies of this one.
            torch.set_num_threads(1)
        problems = Problems()
        runs = [
            Run.checked(job.node, RunDirectory(self.top / job.name), problems, elsewhere=not self.local)
            for job in self.jobs
        ]
        refuse_other_data(runs)
        return runs

    def refuse_without_slurm(self) -> None:
        """Refuse to hand runs to Slurm where there is none, which its launcher finds out when files are written.

        Raises:
            ConfigError: its programs are not here.
        """
        if self.launcher == "submitit_slurm" and shutil.which("srun") is None:
            why = "no srun on this machine; jobs are handed in where Slurm is, and submitit_local rehearses them here"
            raise ConfigError("hydra/launcher", self.launcher, why)

    def record(self) -> None:
        """Write what those who resume it have to know."""
        swept = commandline.swept_keys(self.parsed)
        facts = {"overrides": resume.lasting(self.overrides), "swept": swept, "title": self.base.title}
        write_sweep(self.top, {**facts, "runs": [job.name for job in self.jobs]})

    def train(self, runs: list[Run]) -> bool:
        """Train its runs through the launcher; whether all went well, as far as the launcher says."""
        from mfrun.sweeps.jobs import SideBySide, stopped_together, train_job

        jobs = {job.words: job.whole for job in self.jobs}
        if self.local:
            launcher = SideBySide(dict(zip(jobs, runs, strict=True)))
            return all(result.return_value for result in hydra.launch(self.master, jobs, train_job, launcher))
        jobs = {job.words: job.whole for job, run in zip(self.jobs, runs, strict=True) if not run.finished}
        if not jobs:
            return True
        where = f"hydra/launcher={self.launcher}"
        go = "1 run goes" if len(jobs) == 1 else f"{len(jobs)} runs go"
        say(f"mfrun: {go} to {where}; {_status(self.top)} says how they stand")
        try:
            with stopped_together(runs) if self.launcher == "joblib" else nullcontext():
                return all(result.return_value for result in hydra.launch(self.master, jobs, train_job))
        except Exception as error:
            # Launchers raise what they like; the troubles of the runs themselves are in their status and logs.
            lines = [line for line in str(error).splitlines() if line.strip()] or [""]
            say(f"mfrun: {where}: {type(error).__name__}: {lines[0].strip()}")
            return False


def _with_widths(overrides: list[str], master: DictConfig) -> list[Override]:
    """The words of a sweep, those that its preset sweeps over and its widths among them."""
    parsed = commandline.parse(overrides)
    given = {o.key_or_group for o in parsed}
    for o in parsed:
        if o.key_or_group == "hydra.sweep.subdir":
            raise UserError(f"{commandline.line(o)}: the folders of a sweep are named after its swept keys")
    if {"width", "widths"} <= given:
        said = ", ".join(commandline.line(o) for o in parsed if o.key_or_group in ("width", "widths"))
        raise UserError(f"{said}: both say what widths the sweep has; give one of them")
    preset = [f"{key}={values}" for key, values in (master.hydra.sweeper.params or {}).items()]
    parsed = [*(o for o in commandline.parse(preset) if o.key_or_group not in given), *parsed]
    if any(o.key_or_group == "width" for o in parsed):
        return parsed
    parsed_widths = [config.parse_width(w, "widths") for w in master.widths]
    # Hydra would make a float of 1e6, and 1000000.0 of that.
    widths = ["inf" if math.isinf(w) else str(int(w)) for w in parsed_widths]
    if not widths:
        raise ConfigError("widths", "[]", "a sweep needs at least one width")
    if len(set(widths)) < len(widths):
        raise ConfigError("widths", list(master.widths), "holds a width twice")
    return [*parsed, *commandline.parse([f"width={','.join(widths)}"])]


def _composed(parsed: list[Override], master: DictConfig, flags: list[str]) -> list[_Job]:
    """The jobs that the words stand for."""
    own = [
        f"dir={quote(master.dir)}",
        f"hydra.sweep.subdir='{commandline.subdirectory(parsed, commandline.config_dirs(flags))}'",
        "hydra.mode=MULTIRUN",
    ]
    jobs = commandline.jobs([o for o in parsed if o.key_or_group != "dir"])
    return [_Job(whole, keys(whole)) for whole in compose_jobs([[*job, *own] for job in jobs], flags)]


def _distinct(jobs: list[_Job], top: Path) -> list[_Job]:
    """The jobs, of those that compute the same the first: the limit is the same for every value of ``neurons``.

    A run that is there already stays one of the sweep; two of one name are a mistake that is told later.
    """
    kept, first = list[_Job](), dict[str, str]()
    for job in jobs:
        computed = repr((config.content(job.node), [job.node.get(key) for key in config.EXECUTION]))
        same = first.setdefault(computed, job.name)
        if same == job.name or (top / job.name).exists():
            kept.append(job)
        else:
            say(f"mfrun: {job.name}: computes what {same} does, and is left out")
    return kept


def _refuse_folders(top: Path, names: list[str], grown: bool) -> None:
    """Refuse names of runs that are no folders of a sweep.

    Args:
        top: the sweep's folder.
        names: of its runs.
        grown: the sweep is resumed, and may only have become larger.
    """
    # No value does so, since / is no part of a name; a link in the sweep's folder may.
    outside = next((n for n in names if not (top / n).resolve().is_relative_to(top.resolve())), None)
    if outside:
        raise UserError(f"{outside}: runs of a sweep lie below {top}, and this link leads out of it")
    long = next((part for n in names for part in Path(n).parts if len(part.encode()) > LONGEST), None)
    if long:
        why = f"the values of swept keys name a run's folder, and this name is longer than {LONGEST} bytes"
        raise UserError(f"{long[:60]}...: {why}; a YAML file of your own gives them a short name")
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice:
        # Two values may have one name: a/b is a_b there.
        raise UserError(f"{twice}: given twice, or by two values that make one folder's name")
    if grown:
        resume.refuse_orphans(top, names)


def _refuse_chdir(whole: DictConfig) -> None:
    """Refuse Hydra's change into the folder of a run: relative paths, its own among them, are others there.

    Raises:
        ConfigError: it is asked for.
    """
    if whole.hydra.job.chdir:
        raise ConfigError("hydra.job.chdir", True, "only false; relative paths start where mfrun is called")


def _launcher(master: DictConfig) -> str:
    """The launcher of a sweep.

    Raises:
        ConfigError: its package is not installed, or another sweeper is asked for.
    """
    choices = master.hydra.runtime.choices
    sweeper, name = str(choices["hydra/sweeper"]), str(choices["hydra/launcher"])
    if sweeper != "basic":
        raise ConfigError("hydra/sweeper", sweeper, "mfrun sweep says itself what it sweeps over; only basic")
    package = str(master.hydra.launcher._target_).rpartition(".")[0]
    try:
        if name != "local":
            importlib.import_module(package)
    except ImportError as error:
        extra = name.partition("_")[0]
        why = f"needs a package that is not here; pip install 'mfrun[{extra}]' ({reason(error)})"
        raise ConfigError("hydra/launcher", name, why) from error
    return name
