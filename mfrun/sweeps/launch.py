"""``mfrun train`` and ``mfrun sweep``: from the words of the command line to runs, through Hydra."""

from __future__ import annotations

import importlib
import sys
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mfrun import config
from mfrun.dynamics.warnings import warn
from mfrun.errors import ConfigError, UserError
from mfrun.registry import create, distrust, names_in, reason
from mfrun.runs.directory import RunDirectory, hold_sweep, read_sweep, write_sweep
from mfrun.runs.loggers import Tolerated
from mfrun.runs.progress import Runs, say
from mfrun.runs.requeue import requeued_on_signal
from mfrun.shell import commandline, hydra
from mfrun.sweeps import side_by_side

if TYPE_CHECKING:
    from mfrun.dynamics.experiment import Experiment

# conf/hydra/launcher/ and the plugins' own schemas share their names, on purpose: the schemas check the types.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema", UserWarning)
# Told after Hydra has returned: (what, exit code) of the jobs of this process.
_problems: dict[str, Any] = {}
_failures: list[Exception] = []


def train(argv: list[str]) -> int:
    """Train one configuration."""
    if hydra.only_prints("train", argv):
        return 0
    flags, overrides = commandline.split(argv)
    distrust(set())
    _problems.clear()
    parsed = commandline.parse(overrides)
    swept = [commandline.line(o) for o in parsed if o.is_sweep_override()]
    if swept:
        raise UserError(f"{swept[0]}: several values; mfrun sweep trains one run for each")
    node = commandline.compose(overrides, flags)
    run_dir = commandline.folder(node)
    if node.resume:
        overrides, node = _resumed(_saved_overrides(run_dir), overrides, flags)
    elif RunDirectory(run_dir).exists():
        raise UserError(f"dir={run_dir}: holds a run already; resume=true goes on with it")
    warn([_validate(node, RunDirectory(run_dir))])
    _failures.clear()
    hydra.run("train", train_job, [*overrides, f"dir={commandline.quote(str(run_dir))}", *flags])
    if _failures:
        raise _failures[0]
    status = RunDirectory(run_dir).status()
    from mfrun.runs.status import table

    print(table([RunDirectory(run_dir)]))
    return 3 if status["state"] == "diverged" else 0


def sweep(argv: list[str]) -> int:
    """Train every width, and every value of every swept key: a Hydra multirun."""
    if hydra.only_prints("sweep", argv):
        return 0
    dry_run = "--dry-run" in argv
    argv = [word for word in argv if word != "--dry-run"]
    flags, overrides = commandline.split(argv)
    distrust(set())
    _problems.clear()
    base = commandline.compose(commandline.first(overrides), flags)
    top = commandline.folder(base)
    recorded = read_sweep(top)
    if recorded and not base.resume:
        raise UserError(f"dir={top}: holds a sweep already; resume=true goes on with it")
    if base.resume:
        if recorded is None:
            raise UserError(f"dir={top}: no sweep to resume here")
        overrides, base = _resumed(_checked(recorded.get("overrides"), top / "sweep.yaml"), overrides, flags)

    parsed = commandline.parse(overrides)
    given = {o.key_or_group for o in parsed}
    settings = commandline.hydra_settings(overrides, flags)
    preset = [f"{key}={values}" for key, values in (settings.sweeper.params or {}).items()]
    parsed = [*(o for o in commandline.parse(preset) if o.key_or_group not in given), *parsed]
    if not any(o.key_or_group == "width" for o in parsed):
        widths = [config.width_label(config.parse_width(w, "widths")) for w in base.widths]
        if not widths:
            raise ConfigError("widths", "[]", "a sweep needs at least one width")
        if len(set(widths)) < len(widths):
            raise ConfigError("widths", list(base.widths), "holds a width twice")
        parsed = [*parsed, *commandline.parse([f"width={','.join(widths)}"])]
    jobs = commandline.jobs(parsed)
    nodes = [commandline.compose(job, flags) for job in jobs]
    names = [commandline.subdirectory(parsed, job, node) for job, node in zip(jobs, nodes, strict=True)]
    outside = next((n for n in names if not (top / n).resolve().is_relative_to(top.resolve())), None)
    if outside:
        raise UserError(f"{outside}: the values of a swept key name folders below {top}, and this one leads out of it")
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice:
        raise UserError(f"{twice}: given twice")
    launcher = _launcher(settings)
    if not launcher:
        import torch

        # A process that has used several threads cannot be copied, and the runs will be copies of this one.
        torch.set_num_threads(1)
    experiments = [
        _validate(node, RunDirectory(top / name), elsewhere=bool(launcher))
        for node, name in zip(nodes, names, strict=True)
    ]
    if base.resume:
        _refuse_orphans(top, names)
    if dry_run:
        warn(experiments)
        prepared = zip(names, experiments, nodes, strict=True)
        runs = [(_Run(RunDirectory(top / name), e.cfg, node, name, e), e) for name, e, node in prepared]
        return _plan(runs, top, base.threads, launcher, settings.launcher)

    lasting = [o for o in overrides if not _of_this_call(commandline.parse([o])[0].key_or_group)]
    arguments = [commandline.line(o) for o in parsed if o.key_or_group != "dir"]
    subdir = ",".join(f"{k}={commandline.value_of(k)}" for k in commandline.swept_keys(parsed))
    # A job that runs elsewhere may start in another folder.
    place = top.absolute() if launcher else top
    words = [*arguments, f"dir={commandline.quote(str(place))}", f"hydra.sweep.subdir='{subdir}'", "--multirun", *flags]
    folders = [RunDirectory(top / name) for name in names]
    _failures.clear()
    with hold_sweep(top, resume=base.resume):
        warn(experiments)
        write_sweep(top, {"overrides": lasting, "swept": commandline.swept_keys(parsed), "title": base.title})
        if launcher:
            _hand_over(launcher, words, top, len(folders))
        else:
            waiting: list[_Run] = []
            ready = {str(folder.path.absolute()): e for folder, e in zip(folders, experiments, strict=True)}
            hydra.run("sweep", lambda node: waiting.append(_prepared(node, ready)), words)
            _train_together(waiting, base.threads)
        Tolerated(base.logger).tell("finish_sweep", top)
    from mfrun.runs.status import table

    print(table(folders))
    print(f"\nmfrun plot {top}")
    return 1 if _failures or not all(run.done() for run in folders) else 0


@dataclass
class _Run:
    """A run that Hydra has prepared.

    Attributes:
        label: what a run of a sweep is called while it trains; None for a run by itself.
        checked: the experiment that the checks before the sweep have assembled.
    """

    folder: RunDirectory
    cfg: config.Config
    node: DictConfig
    label: str | None
    checked: Experiment | None = None

    @property
    def experiment(self) -> Experiment:
        """What it trains, assembled here unless the checks have done so."""
        from mfrun.dynamics.experiment import assemble

        if self.checked is None:
            self.checked = assemble(self.cfg, _problem(self.cfg))
        return self.checked

    def train(self, threads: int | None) -> bool:
        """Train with so many threads; False where that fails, which in a sweep must not take the others with it."""
        from mfrun.dynamics.train import train as train_run

        try:
            cfg = replace(self.cfg, threads=threads)
            train_run(replace(self.experiment, cfg=cfg), config.content(self.node), self.folder, self.label)
            return True
        except Exception as error:
            _failures.append(error)
            if self.label:
                expected = isinstance(error, UserError)
                say(f"mfrun: {self.label}: {error if expected else f'{type(error).__name__}: {error}'}")
                if not expected:
                    traceback.print_exc(file=sys.stderr)
            return False

    def finished(self) -> bool:
        """Whether a resumed sweep has nothing left to do here."""
        return self.folder.exists() and self.folder.done() and self.folder.status().get("steps") == self.cfg.steps

    def job(self) -> side_by_side.Job:
        """What the schedule has to know."""
        left = self.cfg.steps - int(self.folder.status().get("step", 0))
        return side_by_side.Job(self.train, self.folder.path.name, left, self.experiment.flops)


def _prepared(node: DictConfig, checked: Mapping[str, Experiment] | None = None) -> _Run:
    folder = RunDirectory(HydraConfig.get().runtime.output_dir)
    swept = HydraConfig.get().mode == RunMode.MULTIRUN
    found = (checked or {}).get(str(folder.path))
    return _Run(folder, config.validated(node), node, folder.path.name if swept else None, found)


def train_job(node: DictConfig) -> None:
    """What Hydra runs for a job, here or in the process that a launcher has started."""
    config.store_schema()  # a process that a launcher has started does not know it
    run = _prepared(node)
    if run.label is None:
        run.train(run.cfg.threads)
        return
    # The sweep has made sure of what each folder holds; a run that is there now was begun by this job, which has been
    # requeued.
    run.cfg.resume = True
    with requeued_on_signal():
        run.train(run.cfg.threads)


def _hand_over(launcher: str, words: list[str], top: Path, runs: int) -> None:
    """Let a launcher train the runs of a sweep, and wait for them."""
    # They load the data themselves.
    _problems.clear()
    say(f"mfrun: {runs} runs go to hydra/launcher={launcher}; mfrun status {top} says how they stand")
    try:
        hydra.run("sweep", train_job, words)
    except Exception as error:  # whatever a launcher meets; the runs' own troubles are in their status and logs
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        say(f"mfrun: hydra/launcher={launcher}: {type(error).__name__}: {lines[0].strip()}")
        _failures.append(error)


def _plan(
    runs: list[tuple[_Run, Experiment]], top: Path, threads: int | None, launcher: str, settings: DictConfig
) -> int:
    """Say what the sweep would take; 1 where it does not fit."""
    from mfrun.sweeps.estimate import Planned
    from mfrun.sweeps.plan import Cluster, Plan

    left = [Planned(run.job(), experiment) for run, experiment in runs if not run.finished()]
    if len(left) < len(runs):
        print(f"{len(runs) - len(left)} of {len(runs)} runs are done\n")
    if not left:
        return 0
    plan = Plan(left, top, threads, Cluster.of(launcher, settings) if launcher else None)
    print(f"{plan.table()}\n\n{plan.totals()}")
    return 1 if plan.lacking() else 0


def _train_together(runs: list[_Run], threads: int | None) -> None:
    """Train the runs of a sweep on this machine."""
    from mfrun.dynamics.experiment import resolve_device

    jobs = [run.job() for run in runs if not run.finished()]
    with Runs(len(runs), done=len(runs) - len(jobs)):
        device = resolve_device(runs[0].cfg.device)
        if device.type == "cuda":
            side_by_side.run_on_streams(jobs, device)
        else:
            for job in side_by_side.run_side_by_side(jobs, threads or side_by_side.cores()):
                _failures.append(RuntimeError(job.label))


def _validate(node: DictConfig, run: RunDirectory, elsewhere: bool = False) -> Experiment:
    """Refuse bad values, bad data and changes of a run that exists, before anything is written.

    Args:
        elsewhere: the run will be trained on another machine, whose devices are not known here.
    """
    from mfrun.dynamics.experiment import assemble
    from mfrun.dynamics.train import refuse_changes

    cfg = config.validated(node)
    if elsewhere:
        cfg = replace(cfg, device="cpu", precision="float32")
        if run.exists() and not cfg.resume:
            raise UserError(f"dir={run.path}: holds a run already; resume=true goes on with it")
    experiment = assemble(cfg, _problem(cfg))
    create("logger", cfg.logger, "logger")
    if run.exists():
        refuse_changes(run, config.content(node), growing=not experiment.schedule.needs_end)
    return experiment


def _problem(cfg: config.Config) -> Any:
    """The data set, loaded once for all jobs of this process that share it."""
    from mfrun.dynamics.experiment import Problems

    return _problems.setdefault("of this command", Problems())(cfg)


def _launcher(settings: DictConfig) -> str:
    """The launcher asked for by ``hydra/launcher=``; empty where the sweep trains its runs itself.

    Raises:
        ConfigError: its package is not installed.
    """
    name = str(settings.runtime.choices["hydra/launcher"])
    if name == "basic":  # Hydra's default
        return ""
    package = str(settings.launcher._target_).rpartition(".")[0]
    try:
        importlib.import_module(package)
    except ImportError as error:
        extra = name.partition("_")[0]
        why = f"needs a package that is not here; pip install 'mfrun[{extra}]' ({reason(error)})"
        raise ConfigError("hydra/launcher", name, why) from error
    return name


def _of_this_call(key: str) -> bool:
    """Whether a word of the command line is for this call alone, and not for those that resume the sweep."""
    return key in ("resume", "dir") or key.startswith(("hydra/", "hydra."))


def _saved_overrides(run_dir: Path) -> list[str]:
    """What the run in a folder was started with."""
    file = run_dir / ".hydra" / "overrides.yaml"
    if not RunDirectory(run_dir).exists() or not file.is_file():
        raise UserError(f"dir={run_dir}: no run to resume here")
    try:
        saved = OmegaConf.load(file)
    except Exception as error:
        raise UserError(f"{file}: cannot be read") from error
    plain = OmegaConf.to_container(saved) if OmegaConf.is_config(saved) else saved
    return [o for o in _checked(plain, file) if not o.startswith(("resume=", "dir="))]


def _checked(saved: object, file: Path) -> list[str]:
    """Overrides read from a run directory, which configure the run and never Hydra, whose keys can call anything.

    Raises:
        UserError: they do, or are no overrides.
    """
    if not isinstance(saved, list):
        raise UserError(f"{file}: holds no list of overrides")
    words = [str(o) for o in saved]
    for o in commandline.parse(words):
        if o.key_or_group.partition("/")[0].partition(".")[0] == "hydra":
            raise UserError(f"{file}: holds {commandline.line(o)}; a run's folder does not configure Hydra")
    return words


def _resumed(saved: list[str], typed: list[str], flags: list[str]) -> tuple[list[str], DictConfig]:
    """The overrides of a resumed run or sweep, and its configuration (of a sweep, the first one).

    Code that the saved ones name is not imported: not what a YAML file says, but what they say themselves.
    """
    overrides = commandline.over(saved, typed)
    node = commandline.compose(commandline.first(overrides), flags)
    if any(":" in o for o in saved):
        groups = [o for o in saved if commandline.chooses(commandline.parse([o])[0])]
        try:
            own = _names(commandline.over(groups, typed), flags)
        except UserError:  # what is typed makes sense beside the saved ones only
            own = set()
        distrust(_names(overrides, flags) - own)
    return overrides, node


def _names(overrides: list[str], flags: list[str]) -> set[str]:
    """What the configurations of a command line may import."""
    jobs = commandline.jobs(commandline.parse(overrides))
    return set().union(*(names_in(commandline.plain(commandline.compose(job, flags))) for job in jobs))


def _refuse_orphans(top: Path, names: list[str]) -> None:
    """Every run that the folder holds must be one of the resumed sweep's; widths and values may be added."""
    held = [p.parent.name for p in top.glob("*/config.yaml")]
    lost = [name for name in held if name not in names]
    if lost:
        raise UserError(f"dir={top}: holds {lost[0]}, which the sweep to resume has not; a resumed sweep may only grow")
