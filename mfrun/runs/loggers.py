"""Where else a run's metrics go, beside metrics.csv: ``logger=NAME``, or several, ``logger=[NAME,NAME]``.

metrics.csv is the record, and is on disk before a logger hears of its rows. A logger is no part of what a run computes:
whatever it raises is told in a line, and the run goes on without it.

To add one: subclass :class:`Logger`, ``@register`` it, add ``conf/logger/NAME.yaml`` (W&B's and MLflow's are in
:mod:`mfrun.runs.tracking`; TensorBoard's, which draws, is in :mod:`mfrun.study.tensorboard`); or name a class of your
own by ``logger.name=package.module:Class``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfrun.errors import UserError
from mfrun.registry import base, create, reason, register
from mfrun.runs.progress import say

# A row of metrics.csv by column: step, t, replicate, the metrics, wall_seconds.
Row = Mapping[str, Any]


@base("logger")
@dataclass
class Logger:
    """Base of all loggers; one object for each run. What a logger does not override does nothing."""

    def start(self, folder: Path, rows: Sequence[Row]) -> None:
        """A run begins, or goes on after the rows that its metrics.csv holds."""

    def log(self, rows: Sequence[Row]) -> None:
        """Rows of one step, a row for each replicate, that are in metrics.csv now."""

    def finish(self, folder: Path) -> None:
        """The run has come to its end, or diverged."""

    def close(self) -> None:
        """This process does no more for the run, which has ended, was stopped or has failed."""

    def finish_sweep(self, folder: Path) -> None:
        """The sweep in a folder has come to its end. The object is one of its own, without :meth:`start`."""


@register("logger", "csv")
@dataclass
class Csv(Logger):
    """metrics.csv alone, which every run writes."""


def loggers(node: Mapping[str, Any]) -> list[tuple[str, Logger]]:
    """The loggers that a configuration's ``logger`` describes, with their names.

    Its keys are one logger's own, or each holds the node of one, so that several stand side by side.

    Raises:
        ConfigError: no such logger, keys that it refuses, or a package that is not installed.
    """
    nodes = {f"logger.{key}": one for key, one in node.items() if isinstance(one, Mapping) and "name" in one}
    alone = {key: value for key, value in node.items() if f"logger.{key}" not in nodes}
    if alone:
        nodes["logger"] = alone
    made = [(create("logger", one, key), one) for key, one in nodes.items()]
    return [(str(one["name"]), logger) for logger, one in made]


class Tolerated:
    """A run's loggers. The failure of one is told in a line and ends it, not the run.

    Args:
        node: the configuration's ``logger``.
        label: names the run in messages; empty for none.

    Raises:
        ConfigError: as :func:`loggers`.
    """

    def __init__(self, node: Mapping[str, Any], label: str = "") -> None:
        self._loggers = loggers(node)
        self._label = f"{label}  " if label else ""

    def tell(self, event: str, *args: Any) -> None:
        """Call the loggers' methods of that name."""
        for one in list(self._loggers):
            name, logger = one
            try:
                getattr(logger, event)(*args)
            except Exception as error:  # A full disk, a server that does not answer, or the user's own code.
                self._loggers.remove(one)
                what = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
                say(f"{self._label}logger={name}: {what}{reason(error)}; it is left out from here on")
