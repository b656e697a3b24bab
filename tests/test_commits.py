"""A run cut off at every point where something is committed to disk, and on a disk that is full at many points.

In both, resume=true ends bit for bit like a run that nothing cut off. Faults at random moments are in test_faults.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import curves

from mfrun import config
from mfrun.dynamics.experiment import assemble
from mfrun.dynamics.train import train
from mfrun.runs.directory import RunDirectory
from mfrun.shell.compose import compose

# Evaluated at steps 0, 1, 10, 100 and 260; a state is saved at 256, too, where a block of samples ends.
SMALLEST = ["width=2", "depth=2", "dataset.d=2", "batch=2", "evaluation.samples=5", "evaluation.points_per_decade=1",
            "steps=260", "checkpoint_seconds=1e-9", "replicates=2", "threads=1"]  # fmt: skip


class Run:
    """The smallest run, ready to train in any folder."""

    def __init__(self) -> None:
        node = compose(SMALLEST, [])
        self.experiment, self.content = assemble(config.validated(node)), config.content(node)

    def train(self, path: str) -> None:
        """From the start, or from where the folder stands."""
        cfg = replace(self.experiment.cfg, resume=True)
        train(replace(self.experiment, cfg=cfg), self.content, RunDirectory(path))


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Beside it, in ``straight``, what it gives when nothing cuts it off."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # what a disk takes its time for; no power is cut here
    run = Run()
    run.train("straight")
    return run


def kill_at(count: int, torn: bool) -> None:
    """Let this process die by SIGKILL just before its ``count``-th call that commits something to disk.

    Args:
        torn: only where a file is flushed, and what is not flushed yet is cut in half first, as where the power fails.
    """
    left, flushed = iter(range(count, -1, -1)), dict[Path, int]()

    def before(original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            file = Path(f"/proc/self/fd/{args[0]}").resolve() if name == "fsync" else None
            if next(left) == 0:
                if file is not None and torn:
                    old = flushed.get(file, 0)
                    os.truncate(file, old + (file.stat().st_size - old) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            if file is not None:
                flushed[file] = file.stat().st_size
            return original(*args, **kwargs)

        return call

    for name in ("fsync",) if torn else ("fsync", "replace", "unlink"):
        setattr(os, name, before(getattr(os, name), name))


def killed(run: Run, path: str, count: int, torn: bool) -> bool:
    """Train in a process of its own that dies there; False where it comes to its end before."""
    child = os.fork()
    if child == 0:
        try:
            kill_at(count, torn)
            run.train(path)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("torn", [False, True], ids=["killed", "power cut"])
def test_every_commit(run: Run, torn: bool) -> None:
    count = 0
    while killed(run, f"r{count}", count, torn):
        run.train(f"r{count}")
        same(f"r{count}", "straight")
        count += 1
    same(f"r{count}", "straight")
    # Six states with their commits and status, five appends, and the configuration.
    assert count > (20 if torn else 40)


def test_killed_without_end(run: Run) -> None:
    """Each life is a little longer than the last one's first commit: what is done stays done."""
    lives = 0
    while killed(run, "r", 12, torn=False):
        lives += 1
    same("r", "straight")
    assert 3 < lives < 40


def same(path: str, other: str) -> None:
    """Rows and states are equal, and nothing else is left."""
    assert curves(path) == curves(other)
    names = [sorted(f.name for f in Path(p).iterdir()) for p in (path, other)]
    assert names[0] == names[1]
    for file in Path(path).glob("*.safetensors"):
        assert file.read_bytes() == Path(other, file.name).read_bytes()


# -- a full disk -----------------------------------------------------------------------------------------------------

# Run where it may mount. For each number of free pages, from none: what the command said, how far the run came, and
# whether it ended as it should once there was room.
FULL = """
import contextlib, csv, io, json, os, shutil, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from commands import curves, here

WORDS = ["threads=1", "width=20", "depth=3", "dataset.d=20", "batch=5", "evaluation.samples=20", "replicates=4",
         "steps=100", "evaluation.points_per_decade=8"]


def call(*words):
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
        code = here(*words)
    return code, err.getvalue().splitlines()


assert call("train", *WORDS, "dir=straight")[0] == 0
disk = Path("disk")
disk.mkdir()
assert os.system("mount -t tmpfs -o size=256k none disk") == 0
run, filler = disk / "r", disk / "filler"
for pages in range(0, 64, 3):
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(4096))
    os.truncate(filler, filler.stat().st_size - 4096 * pages)
    code, err = call("train", *WORDS, f"dir={run}")
    rows = len({r["step"] for r in curves(run)}) if (run / "metrics.csv").exists() else 0
    states = sorted(int(f.stem[6:]) for f in run.glob("state-*.json"))
    filler.unlink()
    words = [f"dir={run}", "resume=true"] if (run / "config.yaml").exists() else [*WORDS, f"dir={run}"]
    again = call("train", *words)[0]
    last = "state-00000100.safetensors"
    same = curves(run) == curves("straight") and (run / last).read_bytes() == Path("straight", last).read_bytes()
    print(json.dumps({"code": code, "err": err, "rows": rows, "states": len(states), "again": again, "same": same}))
    shutil.rmtree(run)
    if code == 0:
        break
"""


def test_a_full_disk(folder: Path) -> None:
    """A real one, of memory, in a name space of its own."""
    words = ["unshare", "--map-root-user", "--mount"]
    trial = [*words, "mount", "-t", "tmpfs", "none", "/mnt"]
    if shutil.which("unshare") is None or subprocess.run(trial, capture_output=True, check=False).returncode:
        pytest.skip("no name space to mount a small disk in")
    done = subprocess.run(
        [*words, sys.executable, "-c", FULL, str(Path(__file__).parent)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *full, enough = map(json.loads, done.stdout.splitlines())
    assert (enough["code"], enough["again"], enough["same"]) == (0, 0, True)
    for found in full:
        assert found["code"] in (1, 2)
        assert "No space left on device" in found["err"][-1]
        assert sum(line.startswith("mfrun: ") and "writes to" not in line for line in found["err"]) == 1
        assert not any("Traceback" in line for line in found["err"])
        assert (found["again"], found["same"]) == (0, True)
    # At the very start, in the middle of training, and while a state is saved whose row is there.
    assert any(found["rows"] == 0 for found in full)
    assert any(found["rows"] > 2 for found in full)
    assert any(found["rows"] > 0 == found["states"] for found in full)
