"""Faults driven at the real command line: after each, resume=true ends with the curves of an uninterrupted run.

Single runs that are stopped, killed or cut short are in test_cli.py, runs side by side in test_local.py, data caches
in test_features.py.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
import yaml
from commands import ARRAYS, TINY, curves, here, program, start, status, steps_logged, wait_until
from formats import write_arrays

import mfrun
from mfrun.errors import UserError
from mfrun.runs.directory import RunDirectory

SWEEP = [*TINY[2:], "threads=1", "widths=[3,5]", "steps=3000", "checkpoint_seconds=0.01"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What nothing interrupted: the sweep above, and a run of 700 steps."""
    top = tmp_path_factory.mktemp("straight")
    assert here("sweep", *SWEEP, f"dir={top}/s") == 0
    assert here("train", *TINY, "steps=700", f"dir={top}/r") == 0
    return top


@pytest.mark.parametrize("seed", [0])
def test_a_sweep_killed_again_and_again(seed: int, straight: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """At moments that fall anywhere: before the first row, in an evaluation or a save, between two runs."""
    moment = random.Random(seed)

    def logged() -> int:
        return max(steps_logged("s/width=3"), steps_logged("s/width=5"))

    # At the latest in the middle of its second run, which waits there.
    process = start("sweep", *SWEEP, "dir=s", hold=1500, only="width=3")
    wait_until(lambda: Path("s/sweep.yaml").exists(), process)
    for hold in (2500, None):
        time.sleep(moment.uniform(0, 1.5))
        process.kill()
        _, err = process.communicate()
        assert process.returncode == -signal.SIGKILL, err
        # The half-finished folder can be looked at. Where there is nothing to see yet, one line says so.
        begun = any(Path("s").glob("*/config.yaml"))
        rows = logged() >= 0
        capfd.readouterr()
        for command, surely in (("status", begun), ("plot", rows), ("compare", False)):
            code = here(command, "s")
            err = capfd.readouterr().err
            assert code == 0 or (code == 2 and not surely), err
            assert code == 0 or (err.startswith("mfrun: ") and err.count("\n") == 1)
            assert "Traceback" not in err
        process = start("sweep", "dir=s", "resume=true", hold=hold, only="width=3")
        wait_until(lambda: logged() >= 0, process)
    process.communicate(timeout=120)
    assert here("sweep", "dir=s", "resume=true") == 0
    for n in (3, 5):
        assert curves(f"s/width={n}") == curves(f"{straight}/s/width={n}")
        assert not [p for p in Path(f"s/width={n}").iterdir() if p.name.endswith(".partial")]


@pytest.mark.parametrize("limit", [200, 1500, 2500])
def test_a_file_that_cannot_grow(limit: int, straight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """RLIMIT_FSIZE, as a quota: at 200 bytes no configuration fits, then no state, then the last rows."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        code = here("train", *TINY, "steps=700", "dir=r")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    err = capsys.readouterr().err
    assert code in (1, 2)
    assert "Traceback" not in err
    assert "File too large" in err.splitlines()[-1]
    again = ["dir=r", "resume=true"] if Path("r/config.yaml").exists() else [*TINY, "steps=700", "dir=r"]
    assert here("train", *again) == 0
    assert curves("r") == curves(f"{straight}/r")


def test_two_sweeps_in_one_folder(straight: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Started at the same moment, one of them trains; nor can another go on with it meanwhile."""
    both = [start("sweep", *SWEEP, "dir=s", hold=1500) for _ in range(2)]
    wait_until(lambda: Path("s/sweep.yaml").exists())
    assert here("sweep", "dir=s", "resume=true") == 2
    assert capfd.readouterr().err == "mfrun: dir=s: another process is training in this folder\n"
    Path("go").touch()
    errors = {process: process.communicate(timeout=120)[1] for process in both}
    refused, trained = sorted(both, key=lambda process: -process.returncode)
    assert (refused.returncode, trained.returncode) == (2, 0), errors
    assert re.fullmatch("mfrun: dir=s: (another process is training in|holds a sweep).*\n", errors[refused])
    for n in (3, 5):
        assert curves(f"s/width={n}") == curves(f"{straight}/s/width={n}")


def test_two_runs_that_begin_in_one_folder() -> None:
    """One trains, and what the folder says was typed are its words."""
    Path("slow.py").write_text("import time\n\nfrom torch.nn.functional import mish\n\ntime.sleep(2)\n")
    both = [start("train", *TINY, "activation.name=slow:mish", f"steps={n}", "dir=r") for n in (30, 40)]
    errors = {process.args[-2]: (process.communicate(timeout=120)[1], process.returncode) for process in both}
    (trained,) = [word for word, (_, code) in errors.items() if code == 0]
    (refused,) = [said for said, code in errors.values() if code == 2]
    assert re.fullmatch("mfrun: dir=r: (another process |holds a run).*\n", refused)
    assert f"steps={status('r')['step']}" == trained
    assert trained in yaml.safe_load(Path("r/.hydra/overrides.yaml").read_text())


@pytest.mark.parametrize("key", ["scaling", "neuron", "operation"])
def test_a_run_older_than_a_key(key: str, straight: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It had the default: it goes on with that, and is refused another value."""
    assert here("train", *TINY, "steps=300", "dir=r") == 0
    file = Path("r/config.yaml")
    saved = yaml.safe_load(file.read_text())
    del saved[key]
    file.write_text(yaml.safe_dump(saved))
    other = {"scaling": "ntk", "neuron": "gate", "operation": "of_sum"}[key]
    words = [f"{key}={other}", *(["init.mu2=0"] if key == "scaling" else [])]
    capfd.readouterr()
    assert here("train", "dir=r", "resume=true", "steps=700", *words) == 2
    assert "r was started with" in capfd.readouterr().err
    assert here("train", "dir=r", "resume=true", "steps=700") == 0
    assert curves("r") == curves(f"{straight}/r")


def bound() -> list[str]:
    """Words before a command that make permissions count even for root; skips where that cannot be had."""
    if os.geteuid():
        return []
    if not shutil.which("setpriv"):
        pytest.skip("root may write everywhere, and there is no setpriv")
    caps = "-dac_override,-dac_read_search,-fowner"
    return ["setpriv", f"--bounding-set={caps}", f"--inh-caps={caps}"]


def test_a_folder_that_becomes_read_only() -> None:
    words = program("train", *TINY, "steps=6000", "checkpoint_seconds=0.05", "dir=r", hold=3000)
    process = subprocess.Popen([*bound(), *words], stdout=-1, stderr=-1, text=True)
    wait_until(lambda: steps_logged("r") >= 100, process)
    Path("r").chmod(0o555)
    Path("go").touch()
    try:
        _, err = process.communicate(timeout=60)
    finally:
        Path("r").chmod(0o755)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "Permission denied" in err.splitlines()[-1]
    assert here("train", "dir=r", "resume=true") == 0
    assert here("train", *TINY, "steps=6000", "dir=plain") == 0
    assert curves("r") == curves("plain")


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits(seed: int, straight: Path) -> None:
    """One in each file of the newest state; what is not found out must not matter."""
    assert here("train", *TINY, "steps=300", "dir=r") == 0
    where = random.Random(seed)
    for file in Path("r").glob("state-00000300.*"):
        data = bytearray(file.read_bytes())
        data[where.randrange(len(data))] ^= 1 << where.randrange(8)
        file.write_bytes(data)
    assert here("train", "dir=r", "resume=true", "steps=700") == 0
    assert curves("r") == curves(f"{straight}/r")


def test_a_commit_of_another_step(straight: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A flipped bit that leaves a number a number."""
    assert here("train", *TINY, "steps=300", "dir=r") == 0
    commit = Path("r/state-00000300.json")
    commit.write_text(commit.read_text().replace('"step": 300', '"step": 100'))
    assert here("train", "dir=r", "resume=true", "steps=700") == 0
    assert "is damaged; going back to the state before it" in capfd.readouterr().err
    assert curves("r") == curves(f"{straight}/r")


def test_a_clock_that_jumps_back(straight: Path) -> None:
    """Files from tomorrow, and a clock that runs backwards while the run goes on."""
    assert here("train", *TINY, "steps=300", "dir=r") == 0
    tomorrow = time.time() + 86400
    for file in Path("r").iterdir():
        os.utime(file, (tomorrow, tomorrow))
    now = iter(range(2**31, 0, -3600))
    with pytest.MonkeyPatch.context() as clock:
        clock.setattr(time, "time", lambda: float(next(now)))
        assert here("train", "dir=r", "resume=true", "steps=700") == 0
    assert curves("r") == curves(f"{straight}/r")
    assert status("r")["state"] == "finished"


@pytest.mark.parametrize("change", ["alpha=0.5", "init.tau2=2", "loss=huber"])
def test_a_resumed_sweep_refuses_another_key(change: str, straight: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(straight / "s", "s")
    before = {p: p.read_bytes() for p in Path("s").rglob("*") if p.is_file()}
    assert here("sweep", "dir=s", "resume=true", "widths=[3,5,6]", change) == 2
    err = capfd.readouterr().err
    assert len(err.splitlines()) == 1
    assert f"mfrun: {change.partition('=')[0]}" in err
    assert "was started with" in err
    assert {p: p.read_bytes() for p in Path("s").rglob("*") if p.is_file()} == before


def test_a_row_that_is_gone_is_said_and_not_waited_for(straight: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """metrics.csv was edited: the run goes on from its state, and ends where it should."""
    assert here("train", *TINY, "steps=300", "dir=r") == 0
    lines = Path("r/metrics.csv").read_text().splitlines(keepends=True)
    Path("r/metrics.csv").write_text("".join(line for line in lines if not line.startswith("100,")))
    capfd.readouterr()
    assert here("train", "dir=r", "resume=true", "steps=700") == 0
    assert "n=4  metrics.csv has no whole row of step 100, and gets none\n" in capfd.readouterr().err
    assert curves("r") == [row for row in curves(str(straight / "r")) if row["step"] != "100"]


def test_states_beyond_eight_digits(tmp_path: Path) -> None:
    """Their names no longer sort as texts do: the newest stays the newest."""
    run = RunDirectory(tmp_path)
    for step in (99_999_000, 99_999_999, 100_000_000, 100_010_000):
        run.save_state(step, {"W1": torch.full((1,), float(step))}, {})
    assert run.saved_steps() == [100_000_000, 100_010_000]
    _, facts = run.load_state(warn=print) or ({}, {})
    assert facts["step"] == 100_010_000


@pytest.mark.parametrize("left", ["", "step,t,rep", "step,t,replicate,population_loss,wall_seconds\n", None])
def test_a_run_without_a_whole_row_is_no_reason_to_be_silent_about_others(
    left: str | None, straight: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The disk was full when the first was written, or the power went."""
    shutil.copytree(straight / "s", "s")
    whole = Path("s/width=3/metrics.csv").read_text()
    header = whole.splitlines(keepends=True)[0]
    Path("s/width=3/metrics.csv").write_text(header + "0,0,0,1." if left is None else left)
    assert RunDirectory("s/width=3").metrics().empty
    # Beside others it makes no fractions of their steps.
    frame = mfrun.load("s").frame
    assert {str(frame[key].dtype) for key in ("step", "replicate")} == {"int64"}
    assert here("plot", "s") == 0
    assert "s/width=3: left out: its metrics.csv is missing or empty" in capfd.readouterr().err


def test_a_process_that_has_got_the_number_of_a_dead_one(straight: Path) -> None:
    """A run that says it is trained by a process that began at another time, as after a reboot, is dead."""
    shutil.copytree(straight / "r", "r")
    run = RunDirectory("r")
    run.write_status("running")
    assert run.status()["state"] == "running"
    said = json.loads(Path("r/status.json").read_text())
    Path("r/status.json").write_text(json.dumps(said | {"began": "another boot/1"}))
    assert run.status()["state"] == "killed"


def test_a_dead_process_whose_parent_has_not_asked_for_it() -> None:
    """It still has its number, and trains nothing."""
    process = start("train", *TINY, "steps=10000000", "dir=r")
    wait_until(lambda: steps_logged("r") > 1, process)
    process.kill()
    # Nothing has waited for it yet.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert RunDirectory("r").status()["state"] == "killed"
    process.wait()


def test_data_that_have_moved_are_the_same_data() -> None:
    """Where they lie may change, what they are may not."""
    write_arrays(Path("a.npz"))
    write_arrays(Path("b.npz"), seed=1)
    assert here("train", *ARRAYS, "steps=40", "dir=straight") == 0
    for name in ("moved", "other"):
        assert here("train", *ARRAYS, "steps=40", "budget=0.5", f"dir={name}") == 0
    Path("elsewhere").mkdir()
    shutil.move("a.npz", "elsewhere/c.npz")
    assert here("train", "dir=moved", "resume=true", "budget=1") == 2
    assert here("train", "dir=moved", "resume=true", "budget=1", "dataset.path=elsewhere/c.npz") == 0
    assert curves("moved") == curves("straight")
    assert RunDirectory("moved").config().dataset.path == "elsewhere/c.npz"
    assert here("train", "dir=other", "resume=true", "budget=1", "dataset.path=b.npz") == 2
    assert here("train", "dir=other", "resume=true", "budget=1", "dataset.path=elsewhere/c.npz") == 0
    assert curves("other") == curves("straight")


def test_a_folder_that_looks_like_a_number() -> None:
    Path("1e5").mkdir()
    write_arrays(Path("1e5/a.npz"))
    words = [w for w in ARRAYS if not w.startswith("dataset.path")]
    assert here("train", *words, "steps=2", f"dataset.path={Path.cwd()}/1e5/a.npz", "dir=r") == 0


def test_metrics_and_kernels_of_other_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names the file."""
    assert here("train", *TINY, "steps=10", "evaluation.kernels=4", "dir=r") == 0
    run = RunDirectory("r")
    for bad in (b"", (Path("r") / "kernels-00000010.npz").read_bytes()[:40]):
        Path("r/kernels-00000010.npz").write_bytes(bad)
        with pytest.raises(UserError, match=r"kernels-00000010\.npz: damaged"):
            run.kernels(10)
    Path("r/metrics.csv").write_bytes(b"\x97\xff" * 50)
    capsys.readouterr()
    assert here("train", "dir=r", "resume=true", "steps=20") == 2
    assert "r/metrics.csv: not a metrics file of mfrun" in capsys.readouterr().err


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not told as another process that trains here."""

    def flock(handle: object, how: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UserError, match=r"run\.lock: cannot be locked \(Function not implemented\)"):
        RunDirectory(tmp_path).lock()


def test_files_have_the_permissions_of_others(tmp_path: Path) -> None:
    """As the umask says, whatever wrote them."""
    before = os.umask(0o027)
    try:
        run = RunDirectory(tmp_path / "r")
        run.create({"width": 3})
        run.save_state(1, {"W1": torch.ones(1)}, {})
        modes = {file.name: oct(file.stat().st_mode & 0o777) for file in run.path.iterdir()}
        assert set(modes.values()) == {"0o640"}, modes
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
