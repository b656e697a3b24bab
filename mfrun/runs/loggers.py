"""Where else a run's metrics go, beside metrics.csv: ``logger=NAME``.

metrics.csv is the record, and is on disk before a logger hears of its rows. A logger is no part of what a run computes:
whatever it raises is told in a line, and the run goes on without it.

To add one: subclass :class:`Logger`, ``@register`` it, add ``conf/logger/NAME.yaml`` (TensorBoard's,
which draws, is in :mod:`mfrun.study.tensorboard`); or name a class of your own by
``logger.name=package.module:Class``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfrun.errors import UserError
from mfrun.registry import create, reason, register
from mfrun.runs.progress import say

# A row of metrics.csv by column: step, t, replicate, the metrics, wall_seconds.
Row = Mapping[str, Any]


@dataclass
class Logger:
    """Base of all loggers; one object for each run. What a logger does not override does nothing."""

    def start(self, folder: Path, rows: Sequence[Row]) -> None:
        """A run begins, or goes on after the rows that its metrics.csv holds."""

    def log(self, rows: Sequence[Row]) -> None:
        """Rows of one step, a row for each replicate, that are in metrics.csv now."""

    def finish(self, folder: Path) -> None:
        """The run has come to its end, or diverged."""

    def finish_sweep(self, folder: Path) -> None:
        """The sweep in a folder has come to its end. The object is one of its own, without :meth:`start`."""


@register("logger", "csv")
@dataclass
class Csv(Logger):
    """metrics.csv alone, which every run writes."""


class Tolerated:
    """A run's logger, whose failures are told in a line and end it, not the run.

    Args:
        node: the configuration's ``logger``.
        label: names the run in messages; empty for none.

    Raises:
        ConfigError: no such logger, keys that it refuses, or a package that is not installed.
    """

    def __init__(self, node: Mapping[str, Any], label: str = "") -> None:
        self._logger: Logger | None = create("logger", node, "logger")
        self._told = f"{label}  logger={node['name']}" if label else f"logger={node['name']}"

    def tell(self, event: str, *args: Any) -> None:
        """Call the logger's method of that name."""
        try:
            if self._logger is not None:
                getattr(self._logger, event)(*args)
        except Exception as error:  # A full disk, or the user's own code.
            self._logger = None
            what = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            say(f"{self._told}: {what}{reason(error)}; it is left out from here on")
