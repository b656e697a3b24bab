"""mfrun as a user calls it, in this process or in one of its own, and what it writes."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mfrun import cli

# A network that trains in no time, on one thread so that every process computes the same digits.
TINY = ["threads=1", "width=4", "depth=3", "dataset.d=3", "batch=5", "evaluation.samples=50"]
ARRAYS = ["threads=1", "width=4", "depth=3", "batch=6", "dataset=arrays", "dataset.path=a.npz", "loss=cross_entropy"]
LIMIT = ["particles.first=32", "particles.last=16", "particles.nodes=3"]


# What a process does before it is mfrun: its runs whose label ends in argv[2] wait at step argv[1], or soon after, for
# the signal that stops or kills them, or for the file ``go``. A test that meets a run in its middle needs one that does
# not end meanwhile, however long the test itself waits for a core.
HOLD = """\
import sys, time
from pathlib import Path
from mfrun.runs.progress import Progress
from mfrun.runs.signals import Signals

step_held, name_held, end, update = int(sys.argv.pop(1)), sys.argv.pop(1), time.monotonic() + 300, Progress.update

def held(self, step):
    update(self, step)
    if step >= step_held and self.label.endswith(name_held):
        while not (Signals.received or Path("go").exists() or time.monotonic() > end):
            time.sleep(0.01)

Progress.update = held
"""


def program(*argv: str, hold: int | None = None, only: str = "") -> list[str]:
    """``mfrun ARGV``, or the same with its runs, or only those of a name, held at a step."""
    if hold is None:
        return [sys.executable, "-m", "mfrun", *argv]
    return [sys.executable, "-c", f"{HOLD}\nfrom mfrun.cli import main\nmain()", str(hold), only, *argv]


def start(*argv: str, hold: int | None = None, only: str = "") -> subprocess.Popen[str]:
    """:func:`program` in a process of its own."""
    return subprocess.Popen(
        program(*argv, hold=hold, only=only), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def mfrun(*argv: str) -> tuple[int, str, str]:
    """The same, to its end."""
    process = start(*argv)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def here(*argv: str) -> int:
    """``mfrun ARGV`` in this process, which has torch already."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(argv))
    return int(stopped.value.code or 0)


def rows(run: str) -> list[dict[str, str]]:
    with Path(run, "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def curves(run: str) -> list[dict[str, str]]:
    """metrics.csv, text as it stands there, without the one column that may differ."""
    return [{k: v for k, v in row.items() if k != "wall_seconds"} for row in rows(run)]


def status(run: str) -> dict[str, object]:
    return json.loads(Path(run, "status.json").read_text())


def wait_until(
    condition: Callable[[], bool], process: subprocess.Popen[str] | None = None, seconds: float = 60
) -> None:
    """Wait for what ``process`` does, which has to live until then, or for what happens by itself."""
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def steps_logged(run: str) -> int:
    """The last step in metrics.csv; -1 before there is one."""
    file = Path(run, "metrics.csv")
    return int(rows(run)[-1]["step"]) if file.exists() and len(file.read_text().splitlines()) > 1 else -1
