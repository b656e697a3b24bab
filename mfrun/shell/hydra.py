"""What Hydra does around the training of a run: its folder ``.hydra``, callbacks, launchers, and flags that print."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import _run_hydra, create_config_search_path, get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, run_job
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from mfrun import config
from mfrun.shell import commandline, options, usage
from mfrun.shell.compose import compose

Task = Callable[[DictConfig], Any]

# What stands among Hydra's flags on the line of a command, and is none of them.
OWN = {"train": ("--latest",), "sweep": ("--latest", "--dry-run")}


class Composed(ConfigLoaderImpl):
    """Gives the jobs of a sweep the configurations that have been composed for the checks.

    The words of a job are all that it is composed from, those that configure Hydra among them. In a process that a
    launcher has started, which would have to be sent the configurations of all jobs, it composes the one again.

    Args:
        jobs: the words of each job, and its configuration.
    """

    def __init__(self, jobs: Mapping[tuple[str, ...], DictConfig]) -> None:
        super().__init__(create_config_search_path(str(config.conf_dir())))
        self._jobs = jobs

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The configuration of the job of these words."""
        found = self._jobs.get(tuple(sweep_overrides))
        if found is not None:
            return copy.deepcopy(found)
        name = master_config.hydra.job.config_name
        return self.load_configuration(name, list(sweep_overrides), run_mode=RunMode.RUN)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_jobs": {}}


def run(whole: DictConfig, folder: Path, task: Task) -> None:
    """Call ``task`` as Hydra calls the task of an application, and raise what it raises.

    Args:
        whole: the configuration.
        folder: of the run.
        task: gets the configuration without Hydra's node.
    """
    whole.dir = str(folder)
    whole.hydra.mode = RunMode.RUN
    name = whole.hydra.job.config_name
    callbacks = Callbacks(whole)
    callbacks.on_run_start(config=whole, config_name=name)
    context = HydraContext(config_loader=Composed({}), callbacks=callbacks)
    result, failure = _job(task, whole, "hydra.run.dir", None, context)
    callbacks.on_run_end(config=whole, config_name=name, job_return=result)
    if failure is not None:
        raise failure


def launch(
    master: DictConfig, jobs: Mapping[tuple[str, ...], DictConfig], task: Task, launcher: Launcher | None = None
) -> list[JobReturn]:
    """Let the launcher of a sweep call ``task`` for every job.

    Args:
        master: the configuration of the sweep.
        jobs: the words of each job, and its configuration.
        task: gets the configuration of a job without Hydra's node.
        launcher: None for the plugin that ``hydra/launcher`` names.
    """
    master.hydra.mode = RunMode.MULTIRUN
    name = master.hydra.job.config_name
    callbacks = Callbacks(master)
    callbacks.on_multirun_start(config=master, config_name=name)
    context = HydraContext(config_loader=Composed(jobs), callbacks=callbacks)
    if launcher is None:
        launcher = Plugins.instance().instantiate_launcher(context, task, master)
    else:
        launcher.setup(hydra_context=context, task_function=task, config=master)
    OmegaConf.save(master, Path(str(master.hydra.sweep.dir)) / "multirun.yaml")
    at_once = master.hydra.sweeper.max_batch_size or len(jobs)
    words, results = list(jobs), list[JobReturn]()
    for begin in range(0, len(words), at_once):
        results += launcher.launch(words[begin : begin + at_once], initial_job_idx=begin)
    callbacks.on_multirun_end(config=master, config_name=name)
    return results


def job(context: HydraContext, master: DictConfig, words: Sequence[str], number: int, task: Task) -> None:
    """Call ``task`` for one job of a sweep, in its folder, and raise what it raises.

    Args:
        context: as a launcher gets it.
        master: the configuration of the sweep.
        words: of the job.
        number: of the job in the sweep.
        task: gets the configuration of the job without Hydra's node.
    """
    whole = context.config_loader.load_sweep_config(master, list(words))
    with open_dict(whole.hydra.job):
        whole.hydra.job.id, whole.hydra.job.num = str(number), number
    _, failure = _job(task, whole, "hydra.sweep.dir", "hydra.sweep.subdir", context)
    if failure is not None:
        raise failure


def _job(
    task: Task, whole: DictConfig, folder: str, subfolder: str | None, context: HydraContext
) -> tuple[JobReturn, Exception | None]:
    """Hydra's part of a job; its result does not give the task's error away without printing it."""
    failures: list[Exception] = []

    def noted(node: DictConfig) -> Any:
        try:
            return task(node)
        except Exception as error:
            failures.append(error)
            raise

    return run_job(noted, whole, folder, subfolder, context), failures[0] if failures else None


def _first(overrides: list[str], flags: list[str]) -> list[str]:
    return commandline.first(overrides)


def only_prints(command: str, argv: list[str], composed: Callable[[list[str], list[str]], list[str]] = _first) -> bool:
    """Answer the calls that train nothing: --help, and Hydra's own printing flags.

    Args:
        command: its name.
        argv: the words of the command line.
        composed: from the overrides, with the words of :data:`OWN` after them, and the flags, the overrides of the one
            run whose composition is printed.
    """
    if "--help" in argv or "-h" in argv:
        print(usage.text(command, commandline.config_dirs(argv)))
        return True
    if not any(map(commandline.prints, argv)):
        return False
    if command == "predict":  # Its options are not about what is composed.
        _, argv = options.predict().parse_known_args(argv)
    own = [a for a in argv if a in OWN.get(command, ())]
    argv = [commandline.translate(a) for a in argv if a not in own]
    args = commandline.arguments(argv)
    if args.cfg or args.info:
        flags, overrides = commandline.split(argv)[0], commandline.split(args.overrides)[1]
        args.overrides = composed([*overrides, *own], flags)
        compose(args.overrides, flags, complete=False)
    config.store_schema()
    version.setbase("1.3")
    # Without it, Hydra prints a traceback of its own and leaves; mfrun says what happened in one line.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    GlobalHydra.instance().clear()
    _run_hydra(args, get_args_parser(), print, str(config.conf_dir()), "config")
    return True
