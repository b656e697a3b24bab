"""Handing a command line over to Hydra, which composes the configuration of each job and calls a task with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from mfrun import config
from mfrun.shell import commandline, usage

# Hydra's flags that print something and train nothing.
PRINTING = ("--cfg", "-c", "--info", "-i", "--hydra-help", "--shell-completion", "-sc", "--version")


def run(command: str, task: Callable[[DictConfig], None], argv: list[str]) -> None:
    """Let Hydra read a command line as if it came from the shell, and call ``task`` for every job."""
    config.store_schema()
    before, sys.argv = sys.argv, [f"mfrun {command}", *argv]
    # Without it, Hydra prints a traceback of its own and leaves; mfrun says what happened in one line.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    GlobalHydra.instance().clear()
    try:
        hydra.main(config_path=str(config.conf_dir()), config_name="config", version_base="1.3")(task)()
    finally:
        sys.argv = before


def only_prints(command: str, argv: list[str]) -> bool:
    """Answer the calls that train nothing: --help, and Hydra's own printing flags."""
    if "--help" in argv or "-h" in argv:
        print(usage.text(command))
        return True
    if any(a.split("=")[0] in PRINTING for a in argv):
        argv = [commandline.translate(a) for a in argv]
        args = commandline.arguments(argv)
        if args.cfg or args.info:
            commandline.compose(commandline.first(args.overrides), commandline.split(argv)[0], complete=False)
        run(command, _nothing, argv)
        return True
    return False


def _nothing(node: DictConfig) -> None:
    """The task of a call that only prints."""
