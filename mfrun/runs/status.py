"""``mfrun status``: how the runs below a folder stand."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from mfrun.errors import printable
from mfrun.runs.directory import RunDirectory, find_runs, newest


def main(args: argparse.Namespace) -> int:
    """Entry point of the command."""
    where = newest(args.dir or "outputs") if args.latest else args.dir or "outputs"
    runs = find_runs(where, waiting=True)
    if args.json:
        print(json.dumps([{"run": str(run.path), **run.status()} for run in runs], indent=1))
    else:
        print(table(runs, errors=args.se))
    return 0


def summary(runs: Iterable[RunDirectory], errors: bool = False) -> list[dict[str, str]]:
    """A row for each run: state, step, the latest losses and errors, speed; all rows have the same columns.

    ``by`` is the number of neurons that stand for those of the run's width.

    Args:
        runs: to list.
        errors: with the standard errors of averages over the evaluation's samples.
    """
    rows = []
    for run in runs:
        status = run.status()
        step, steps = status.get("step", 0), status.get("steps", 0)
        row = {"run": str(run.path), "state": status["state"], "step": f"{step}/{steps}" if "steps" in status else "-"}
        if "neurons" in status:
            row["by"] = str(status["neurons"])
        metrics = {k: v for k, v in status.items() if k.endswith(("_loss", "_error"))}
        row |= {k: _number(v) + _error(status.get(f"{k}_se"), errors) for k, v in metrics.items()}
        if "steps_per_second" in status:
            row["steps/s"] = f"{status['steps_per_second']:.0f}"
        if "wall_seconds" in status:
            row["time"] = duration(status["wall_seconds"])
        rows.append(row)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name, "-") for name in columns} for row in rows]


def _number(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _error(value: float | None, wanted: bool) -> str:
    """Nothing where it is not asked for, or the run is older than it."""
    return f" +- {value:.1g}" if wanted and isinstance(value, float) else ""


def table(runs: Iterable[RunDirectory], errors: bool = False) -> str:
    """The same for a terminal."""
    rows, above = summary(runs, errors), ""
    # Runs of one folder share their beginning; it is said once.
    parents = {str(Path(row["run"]).parent) for row in rows}
    if len(parents) == 1 and len(rows) > 1:
        rows, above = [row | {"run": Path(row["run"]).name} for row in rows], f"{parents.pop()}\n"
    # Without pandas, whose import would take longer than all else that the command does.
    lines = [[printable(word) for word in line] for line in (rows[0], *(row.values() for row in rows))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return above + "\n".join(
        " ".join(word.rjust(width) for word, width in zip(line, widths, strict=True)) for line in lines
    )


def duration(seconds: float) -> str:
    """``0.3s``, ``42s``, ``3m20s``, ``2h05m``, ``4d03h``."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
    hours = minutes // 60
    return f"{hours}h{minutes % 60:02d}m" if hours < 72 else f"{hours // 24}d{hours % 24:02d}h"
