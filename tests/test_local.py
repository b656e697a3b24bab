"""Runs of a sweep side by side: the schedule, what the processes share, and what stops them."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import pytest
from commands import TINY, curves, here, start, status, steps_logged, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st

from mfrun.runs.directory import RunDirectory
from mfrun.sweeps.side_by_side import Job, makespan, schedule

JOBS = st.lists(st.tuples(st.integers(1, 10**5), st.floats(1e4, 1e10)), min_size=1, max_size=8)


def job(steps: int, flops: float) -> Job:
    return Job(lambda threads: True, "", steps, flops)


def end(wide: list[Job], narrow: list[Job], cores: int) -> float:
    return sum(j.seconds(cores) for j in wide) + makespan([j.seconds(1) for j in narrow], cores)


@settings(deadline=None, derandomize=True)
@given(JOBS, st.integers(1, 8))
def test_schedule(sizes: list[tuple[int, float]], cores: int) -> None:
    """Every job once, longest first, and no later an end than with all jobs wide or all side by side."""
    jobs = [job(*s) for s in sizes]
    wide, narrow = schedule(jobs, cores)
    assert sorted(map(id, wide + narrow)) == sorted(map(id, jobs))
    lengths = [j.seconds(1) for j in wide + narrow]
    assert lengths == sorted(lengths, reverse=True)
    longest = sorted(jobs, key=lambda j: -j.seconds(1))
    assert end(wide, narrow, cores) <= min(end(longest, [], cores), end([], longest, cores)) * (1 + 1e-12)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=7), st.integers(1, 3))
def test_makespan_of_longest_first(seconds: list[float], cores: int) -> None:
    """Graham's bound: at most 4/3 - 1/(3 cores) of the best of all assignments."""
    found = makespan(sorted(seconds, reverse=True), cores)
    best = min(
        max(sum(s for s, c in zip(seconds, where, strict=True) if c == core) for core in range(cores))
        for where in itertools.product(range(cores), repeat=len(seconds))
    )
    assert best * (1 - 1e-12) <= found <= best * (4 / 3 - 1 / (3 * cores)) * (1 + 1e-12)


def test_small_runs_lie_side_by_side_and_a_long_one_has_all_cores() -> None:
    small = [job(1000, 1e6) for _ in range(4)]
    assert schedule(small, 2) == ([], small)
    large = job(1000, 1e10)
    assert schedule([*small, large], 2) == ([large], small)
    assert schedule([large], 1)[0] + schedule([large], 1)[1] == [large]


def test_runs_do_not_depend_on_those_beside_them() -> None:
    argv = [*TINY[2:], "steps=300", "widths=[3,5,40,inf]", "particles.first=32", "particles.last=16"]
    assert here("sweep", *argv, "threads=3", "dir=together") == 0
    assert here("sweep", *argv, "threads=1", "dir=alone") == 0
    for n in ("3", "5", "40", "inf"):
        assert curves(f"together/width={n}") == curves(f"alone/width={n}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopping_a_sweep_stops_its_runs(number: signal.Signals) -> None:
    """Signals to the sweep's process alone, as a scheduler sends them; Ctrl-C reaches the runs' processes as well."""
    argv = [*TINY[2:], "steps=10000", "widths=[3,5]", "threads=2"]
    process = start("sweep", *argv, "dir=s", hold=5000)
    wait_until(lambda: min(steps_logged("s/width=3"), steps_logged("s/width=5")) >= 100, process)
    children = [int(str(status(f"s/width={n}")["pid"])) for n in (3, 5)]
    assert len({process.pid, *children}) == 3
    process.send_signal(number)
    if number == signal.SIGINT:
        for child in children:
            os.kill(child, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}.get(number, -number)
    assert "Traceback" not in err
    # The runs of a sweep that is killed hear of it, and end a moment later.
    wait_until(lambda: all(RunDirectory(f"s/width={n}").status()["state"] != "running" for n in (3, 5)))
    expected = "running" if number == signal.SIGKILL else "interrupted"
    assert [status(f"s/width={n}")["state"] for n in (3, 5)] == [expected] * 2
    assert here("sweep", "dir=s", "resume=true", "threads=2") == 0
    assert here("train", *argv[:-2], "threads=1", "width=5", "dir=straight") == 0
    assert curves("s/width=5") == curves("straight")


def test_a_signal_that_comes_while_a_run_begins_is_heard() -> None:
    """Its weights take a moment to draw; the signal to the sweep alone comes before its first step."""
    process = start(
        "sweep", *TINY[2:], "steps=1000000", "widths=[1500]", "replicates=4", "depth=4", "threads=1", "dir=s"
    )
    wait_until(lambda: Path("s/width=1500/config.yaml").exists(), process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert status("s/width=1500")["state"] == "interrupted"
    assert int(str(status("s/width=1500")["step"])) < 1000


def test_a_run_that_dies_does_not_take_the_others_with_it(capfd: pytest.CaptureFixture[str]) -> None:
    argv = [*TINY[2:], "steps=10000", "widths=[3,5]", "threads=2", "dir=s"]
    process = start("sweep", *argv, hold=5000, only="width=3")
    wait_until(lambda: steps_logged("s/width=3") >= 100, process)
    os.kill(int(str(status("s/width=3")["pid"])), signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "width=3: its process was killed by signal 9" in err
    assert status("s/width=5")["state"] == "finished"
    assert " killed " in out
