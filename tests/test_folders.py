"""Runs' folders that others have had their hands in: full disks, links, other programs' files, other machines."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import resource
import shutil
import signal
import socket
from pathlib import Path

import pytest
import safetensors.torch
import torch
from commands import TINY, curves, here, start, status, steps_logged, wait_until
from safetensors import SafetensorError

import mfrun
from mfrun.errors import UserError
from mfrun.runs.directory import RunDirectory, find_runs, newest

SWEEP = [*TINY[2:], "threads=1", "widths=[3,5]", "steps=30"]
ROOM = "what was saved before is whole, and resume=true goes on from it once there is room"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run ``r`` and a sweep ``s``."""
    top = tmp_path_factory.mktemp("trained")
    assert here("train", *TINY, "steps=30", f"dir={top}/r") == 0
    assert here("sweep", *SWEEP, f"dir={top}/s") == 0
    return top


def names(path: str, waiting: bool = False) -> list[str]:
    return [str(run.path) for run in find_runs(path, waiting)]


# -- a full disk -----------------------------------------------------------------------------------------------------


def test_what_the_system_says_while_a_state_is_written(tmp_path: Path) -> None:
    """Its error, with the number and the file, and not one of safetensors."""
    run = RunDirectory(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as failed:
            run.save_state(1, {"W1": torch.ones(1000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert failed.value.filename == f"{tmp_path}/state-00000001.safetensors"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_full_disk_says_that_the_run_goes_on(
    command: str, trained: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is full when a state is written, whose writer has words of its own for that."""
    save = safetensors.torch.save_file

    def full(tensors: dict[str, torch.Tensor], file: Path) -> None:
        if "-00000010." in Path(file).name:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        save(tensors, file)

    words, run = ([*TINY, "steps=30"], "d") if command == "train" else (SWEEP, "d/width=3")
    with monkeypatch.context() as disk:
        disk.setattr(safetensors.torch, "save_file", full)
        assert here(command, *words, "dir=d") == 1
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert f"{run}/state-00000010.safetensors: No space left on device; {ROOM}" in err
    assert here(command, "dir=d", "resume=true") == 0
    assert curves(run) == curves(f"{trained}/{'r' if command == 'train' else 's/width=3'}")


def test_other_troubles_of_a_state_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(tensors: object, file: object) -> None:
        raise SafetensorError("invalid dtype")

    monkeypatch.setattr(safetensors.torch, "save_file", broken)
    with pytest.raises(SafetensorError, match="invalid dtype"):
        RunDirectory(tmp_path).save_state(1, {}, {})


# -- where runs are found --------------------------------------------------------------------------------------------


def test_runs_behind_links(trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A folder on a larger disk: what lies there is found, --latest among it, and gone on with."""
    Path("big").mkdir()
    Path("outputs").mkdir()
    Path("outputs/gaussians").symlink_to(Path("big").absolute())
    assert here("train", *TINY, "steps=20", "dir=outputs/gaussians/T") == 0
    capfd.readouterr()
    assert here("status", "outputs") == 0
    assert "outputs/gaussians/T finished 20/20" in capfd.readouterr().out
    assert newest() == Path("outputs/gaussians/T")
    assert here("train", "--latest", "resume=true", "steps=30") == 0
    assert curves("big/T") == curves(f"{trained}/r")
    shutil.copytree(trained / "s", "big/s")
    assert newest(sweeps=True) == Path("outputs/gaussians/s")
    assert names("outputs") == [f"outputs/gaussians/{name}" for name in ("T", "s/width=3", "s/width=5")]
    # So is a run that is a link itself.
    Path("other").mkdir()
    Path("other/r").symlink_to(trained / "r")
    assert names("other") == ["other/r"]


def test_links_that_lead_back_or_twice_to_a_folder(trained: Path) -> None:
    """A run is named once, and by its own place where that is below the folder."""
    shutil.copytree(trained / "s", "o/z/s")
    Path("o/a").symlink_to("z")
    Path("o/b").symlink_to("z/s/width=3")
    Path("o/z/up").symlink_to("..")
    Path("o/z/itself").symlink_to("itself")
    Path("o/z/nowhere").symlink_to("none")
    for waiting in (False, True):
        assert names("o", waiting) == ["o/z/s/width=3", "o/z/s/width=5"]
    assert newest("o") == Path("o/z/s")


def test_runs_are_found_in_every_folder_but_a_run_s(trained: Path) -> None:
    """Sweeps in sweeps' folders and hidden folders, in the order of their names; what waits where it is asked for."""
    for place in ("o/s", "o/s/deeper/s", "o/.hidden/s"):
        shutil.copytree(trained / "s", place)
    shutil.copytree(trained / "r", "o/r")
    shutil.copytree(trained / "r", "o/r/checkpoints/r")
    for name in ("width=10", "width=9"):
        shutil.copytree(trained / "r", f"o/s/{name}")
    shutil.rmtree("o/s/deeper/s/width=5")
    there = [
        *("o/.hidden/s/width=3", "o/.hidden/s/width=5", "o/r", "o/s/deeper/s/width=3"),
        *("o/s/width=3", "o/s/width=5", "o/s/width=9", "o/s/width=10"),
    ]
    assert names("o") == there
    assert names("o", waiting=True) == [*there[:4], "o/s/deeper/s/width=5", *there[4:]]
    with pytest.raises(UserError, match="no run here"):
        find_runs("o/r/.hydra")


@pytest.mark.parametrize("content", ["model: resnet\n", "- a\n", "a: [\n", ""])
def test_a_project_with_a_config_of_its_own(content: str, trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It is no run, and the runs below it are there."""
    Path("config.yaml").write_text(content)
    shutil.copytree(trained / "r", "outputs/r")
    assert names(".") == ["outputs/r"]
    assert here("status", ".") == 0
    assert capfd.readouterr().out.splitlines()[1].startswith("outputs/r finished")
    assert here("plot", ".") == 0
    assert newest(".") == Path("outputs/r")


@pytest.mark.parametrize("left", ["run.lock", "status.json", "metrics.csv", ".hydra", "nothing"])
def test_what_makes_a_folder_a_run_s(left: str, trained: Path) -> None:
    """Any of a run's files beside a configuration, however damaged; or a configuration that has a width, alone."""
    Path("o/r").mkdir(parents=True)
    Path("o/r/config.yaml").write_text("width: 3\n" if left == "nothing" else "")
    if left == ".hydra":
        shutil.copytree(trained / "r/.hydra", "o/r/.hydra")
    elif left != "nothing":
        shutil.copy(trained / "r" / left, "o/r")
    assert names("o") == ["o/r"]


# -- who trains ------------------------------------------------------------------------------------------------------


def test_a_run_of_another_host_name(trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A container has a name of its own, and no process that can be asked for. On this machine the lock tells."""
    shutil.copytree(trained / "r", "r")
    run = RunDirectory("r")
    run.write_status("running", step=20, steps=30)
    said = status("r") | {"host": "d3b07384d113", "pid": 1}
    Path("r/status.json").write_text(json.dumps(said))
    with Path("r/run.lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert run.status()["state"] == "running"
    assert run.status() == said | {"state": "killed"}
    # To look at it is not to hold it.
    run.lock()
    run.unlock()
    # Of another machine, or another time that this one was on, nothing is known but since when it is silent.
    Path("r/status.json").write_text(json.dumps(said | {"began": "another boot/1"}))
    capfd.readouterr()
    assert here("status", "r", "--json") == 0
    assert json.loads(capfd.readouterr().out) == [{"run": "r", **said, "began": "another boot/1"}]
    Path("r/run.lock").unlink()
    Path("r/status.json").write_text(json.dumps(said))
    assert run.status()["state"] == "running"
    assert socket.gethostname() != said["host"]


# -- damaged files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("facts", [{}, {"wall_seconds": "long"}, {"wall_seconds": None}])
def test_a_state_without_its_time(facts: dict[str, object], trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(trained / "r", "r")
    file = Path("r/state-00000030.json")
    whole = json.loads(file.read_text())
    del whole["wall_seconds"]
    file.write_text(json.dumps(whole | facts))
    assert here("train", "dir=r", "resume=true", "steps=40") == 2
    err = capfd.readouterr().err
    assert "mfrun: r/state-00000030.json: damaged: it holds no number of wall_seconds; without it, the run goes" in err
    assert "Traceback" not in err
    file.unlink()
    assert here("train", "dir=r", "resume=true", "steps=40") == 0
    assert here("train", *TINY, "steps=40", "dir=straight") == 0
    assert [row for row in curves("r") if row["step"] != "30"] == curves("straight")


@pytest.mark.parametrize("content", ["", "alpha: 0.01\n"])
def test_a_configuration_that_is_cut_off(content: str, trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(trained / "r", "r")
    shutil.copytree(trained / "s", "s")
    for file in ("r/config.yaml", "s/width=3/config.yaml"):
        Path(file).write_text(content)
    for command, folder in {"train": "r", "export": "r", "plot": "r", "sweep": "s"}.items():
        words = [f"dir={folder}", "resume=true", "steps=40"] if command in ("train", "sweep") else [folder]
        assert here(command, *words) == 2
        err = capfd.readouterr().err
        assert err.count("\n") == 1
        assert "its configuration is not one of mfrun, or damaged: " in err
        assert "/config.yaml holds no width" in err
    with pytest.raises(UserError, match=r"r/config\.yaml holds no width"):
        mfrun.Run("r").width  # noqa: B018


# -- Hydra's keys, and joblib's processes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        ("train", *TINY, "hydra.job.chdir=true"),
        ("train", *TINY, "hydra.job.chdir=1", "dir=r"),
        ("train", "--config-dir", "own", *TINY, "+moves=there"),
        ("sweep", *SWEEP, "hydra.job.chdir=true", "dir=s"),
        ("sweep", *SWEEP, "hydra.job.chdir=false,true", "dir=s"),
        ("sweep", *SWEEP, "hydra.job.chdir=true", "hydra/launcher=basic", "--dry-run"),
    ],
)
def test_a_run_does_not_move_into_its_folder(line: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    """Its lock would lie elsewhere than its rows."""
    Path("own/moves").mkdir(parents=True)
    Path("own/moves/there.yaml").write_text("# @package _global_\nhydra:\n  job:\n    chdir: true\n")
    assert here(*line) == 2
    err = capfd.readouterr().err
    assert err.endswith("hydra.job.chdir=true: only false; relative paths start where mfrun is called\n")
    assert err.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["own"]


def test_a_run_that_is_resumed_does_not_move_either(trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(trained, ".", dirs_exist_ok=True)
    for command, folder in (("train", "r"), ("sweep", "s")):
        assert here(command, f"dir={folder}", "resume=true", "steps=40", "hydra.job.chdir=true") == 2
        assert "hydra.job.chdir=true: only false" in capfd.readouterr().err
    assert here("train", "dir=r", "resume=true", "steps=40", "hydra.job.chdir=false") == 0


@pytest.mark.skipif(importlib.util.find_spec("joblib") is None, reason="joblib is not installed")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_stops_a_sweep_stops_the_runs_of_joblib(number: signal.Signals) -> None:
    """The signal to the sweep's process alone; its runs save their states."""
    words = [*SWEEP[:-2], "widths=[3,4,5]", "steps=10000", "dir=s"]
    process = start("sweep", *words, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    wait_until(lambda: min(steps_logged("s/width=3"), steps_logged("s/width=4")) >= 100, process)
    children = [int(str(status(f"s/width={n}")["pid"])) for n in (3, 4)]
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "mfrun: stopped; the state is saved; mfrun sweep dir=s resume=true goes on from it\n" in err
    assert "Traceback" not in err
    assert [status(f"s/width={n}")["state"] for n in (3, 4)] == ["interrupted"] * 2
    wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    assert not Path("s/width=5/metrics.csv").exists()
    assert here("sweep", "dir=s", "resume=true") == 0
    assert here("train", *words[:-3], "threads=1", "width=3", "steps=10000", "dir=straight") == 0
    assert curves("s/width=3") == curves("straight")
