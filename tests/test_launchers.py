"""Sweeps under Hydra's launchers (docs/cluster.md), each where its plugin is installed, and what holds without any."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import HOLD, TINY, curves, here, mfrun, start, status, steps_logged, wait_until

CONF = Path(__file__).parent.parent / "conf" / "hydra" / "launcher"
PACKAGES = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}
SWEEP = [*TINY[2:], "threads=1", "widths=[3,5,inf]", "particles.first=32", "particles.last=16", "steps=300"]


def installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(f"hydra_plugins.hydra_{package}_launcher") is not None
    except ModuleNotFoundError:
        return False


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not installed(package), reason=f"hydra-{package}-launcher is not installed")


# -- without plugins -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PACKAGES)
def test_a_comment_on_every_key(name: str) -> None:
    first, target, *lines = (CONF / f"{name}.yaml").read_text().splitlines()
    assert first.startswith("# ")
    assert target.startswith(f"_target_: hydra_plugins.hydra_{PACKAGES[name]}_launcher.")
    keys = [line for line in lines if line.strip() and line != "ray:"]
    assert [line for line in keys if " # " not in line and not line.startswith("  - export OMP")] == []


def test_the_extras_are_those_of_the_launchers() -> None:
    import tomllib

    project = tomllib.loads((CONF.parents[2] / "pyproject.toml").read_text())["project"]
    for package in set(PACKAGES.values()):
        assert any(p.startswith(f"hydra-{package}-launcher") for p in project["optional-dependencies"][package])


@pytest.mark.parametrize("name", PACKAGES)
def test_a_launcher_that_is_not_installed(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    if installed(PACKAGES[name]):
        pytest.skip("it is installed")
    assert here("sweep", *SWEEP, f"hydra/launcher={name}", "dir=s") == 2
    err = capfd.readouterr().err
    assert err.startswith(f"mfrun: hydra/launcher={name}: needs a package")
    assert f"pip install 'mfrun[{PACKAGES[name]}]'" in err
    assert len(err.splitlines()) == 1
    assert not Path("s").exists()


def test_an_unknown_launcher(capfd: pytest.CaptureFixture[str]) -> None:
    assert here("sweep", *SWEEP, "hydra/launcher=slurm", "dir=s") == 2
    known = "basic, joblib, local, ray, submitit_local, submitit_slurm"
    assert re.match(rf"mfrun: hydra/launcher=slurm: unknown; one of {known}", capfd.readouterr().err)


def test_without_slurm_nothing_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The plugin is here, or a package of its name; Slurm is not."""
    if not installed("submitit"):
        package = folder / "lib" / "hydra_plugins" / "hydra_submitit_launcher"
        package.mkdir(parents=True)
        (package / "submitit_launcher.py").touch()
        monkeypatch.syspath_prepend(folder / "lib")
    monkeypatch.setenv("PATH", "")
    before = sorted(folder.rglob("*"))
    for words in ([], ["dir=s"]):
        assert here("sweep", *SWEEP, "hydra/launcher=submitit_slurm", *words) == 2
        said = capfd.readouterr().err
        assert said.startswith("mfrun: hydra/launcher=submitit_slurm: no srun on this machine")
        assert said.count("\n") == 1
    assert [path for path in sorted(folder.rglob("*")) if "__pycache__" not in path.parts] == before


# A launcher's process: a handler like submitit's is in place before the job is called, here by Hydra's own launcher,
# which a scheduler calls again with the same words.
JOB = """\
import signal, sys
from pathlib import Path
from mfrun.shell import compose, hydra
from mfrun.sweeps.jobs import train_job

def requeue(number, frame):
    print("requeued by", signal.Signals(number).name, flush=True)
    sys.exit(7)

signal.signal(signal.SIGUSR2, requeue)
words = [*sys.argv[1:], "hydra/launcher=basic", "hydra.sweep.subdir='width=${width}'"]
Path("s").mkdir(exist_ok=True)
master = compose.compose_whole(words, [])
jobs = {(str(n),): compose.compose_whole([*words, f"width={n}"], []) for n in (3, 4)}
hydra.launch(master, jobs, train_job)
"""


@pytest.mark.parametrize(
    ("signals", "code"),
    [([signal.SIGUSR2], 7), ([signal.SIGTERM, signal.SIGUSR2], 7), ([signal.SIGTERM], 143)],
)
def test_a_job_that_is_requeued_goes_on(signals: list[signal.Signals], code: int) -> None:
    words = [*TINY[2:], "threads=1", "steps=2000", "dir=s"]

    def job() -> subprocess.Popen[str]:
        held = [sys.executable, "-c", HOLD + JOB, "1000", "", *words]
        return subprocess.Popen(held, stdout=-1, stderr=-1, text=True)

    process = job()
    wait_until(lambda: steps_logged("s/width=3") >= 100, process)
    process.send_signal(signal.SIGSTOP)  # so that all of them are there at once
    for number in [*signals, signal.SIGCONT]:
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert out == ("requeued by SIGUSR2\n" if code == 7 else "")
    assert "Traceback" not in err
    assert status("s/width=3")["state"] == "interrupted"
    step = int(str(status("s/width=3")["step"]))
    assert Path(f"s/width=3/state-{step:08d}.json").exists()

    Path("go").touch()
    process = job()  # with the same words, as the scheduler starts it again
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert here("train", *words[:-1], "width=3", "dir=alone") == 0
    assert curves("s/width=3") == curves("alone")
    assert status("s/width=4")["state"] == "finished"


# -- with plugins ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("launcher", "words"),
    [
        pytest.param("joblib", ["hydra.launcher.n_jobs=2"], marks=needs("joblib")),
        pytest.param("submitit_local", [], marks=needs("submitit")),
        pytest.param("ray", ["hydra.launcher.ray.init.num_cpus=2"], marks=needs("ray")),
    ],
)
def test_the_same_curves_as_without(launcher: str, words: list[str]) -> None:
    code, out, err = mfrun("sweep", *SWEEP, f"hydra/launcher={launcher}", *words, "dir=s")
    assert code == 0, err
    assert "Traceback" not in err
    assert "validated against" not in err
    assert f"3 runs go to hydra/launcher={launcher}" in err
    assert out.count(" finished ") == 3
    assert here("sweep", *SWEEP, "dir=plain") == 0
    for n in (3, 5, "inf"):
        assert curves(f"s/width={n}") == curves(f"plain/width={n}")
    # The launcher is no part of the sweep: what it does can be gone on with here.
    assert not any("hydra" in o for o in yaml.safe_load(Path("s/sweep.yaml").read_text())["overrides"])
    assert here("sweep", "dir=s", "resume=true", "widths=[3,5,6,inf]") == 0
    assert status("s/width=6")["state"] == "finished"
    # Nor are finished runs handed out again.
    grown = ["dir=s", "resume=true", f"hydra/launcher={launcher}", *words, "widths=[3,5,6,7,inf]"]
    for said in (f"1 run goes to hydra/launcher={launcher}", ""):
        code, _, err = mfrun("sweep", *grown)
        assert code == 0, err
        assert said in err
        assert ("go to" in err or "goes to" in err) == bool(said)
    assert status("s/width=7")["state"] == "finished"


@needs("joblib")
def test_joblib_shares_out_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    import joblib

    monkeypatch.delenv("OMP_NUM_THREADS")
    # What torch takes where nobody tells it, as joblib does not where it starts no processes.
    count = [sys.executable, "-c", "import torch; print(torch.get_num_threads())"]
    alone = int(subprocess.run(count, capture_output=True, text=True, check=True).stdout)
    _, _, err = mfrun("sweep", *TINY[2:], "widths=[3,4]", "steps=1", "hydra/launcher=joblib", "dir=s")
    assert err.count(f"  {1 if joblib.cpu_count() > 1 else alone} thread") == 2
    _, _, err = mfrun(
        "sweep", *TINY[2:], "widths=[3]", "steps=1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=1", "dir=t"
    )
    assert f"  {alone} thread" in err


@needs("submitit")
@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_submitit_requeues_what_is_preempted(number: signal.Signals) -> None:
    words = [*TINY[2:], "threads=1", "widths=[3,5]", "steps=20000"]
    process = start("sweep", *words, "hydra/launcher=submitit_local", "dir=s")
    wait_until(lambda: steps_logged("s/width=3") >= 100, process, 120)
    before = int(str(status("s/width=3")["pid"]))
    os.kill(before, number)
    out, err = process.communicate(timeout=240)
    # Requeued where it was preempted; ended where it was cancelled.
    assert process.returncode == (0 if number == signal.SIGUSR2 else 1), err
    assert out.count(" finished ") == (2 if number == signal.SIGUSR2 else 1)
    if number == signal.SIGTERM:
        assert status("s/width=3")["state"] == "interrupted"
        assert here("sweep", "dir=s", "resume=true") == 0
    assert status("s/width=3")["pid"] != before
    assert here("sweep", *words, "dir=plain") == 0
    for n in (3, 5):
        assert curves(f"s/width={n}") == curves(f"plain/width={n}")


@needs("joblib")
def test_a_line_that_makes_no_sense_is_refused_before_anything_starts(capfd: pytest.CaptureFixture[str]) -> None:
    for words, message in {
        ("activation.slope=3",): "activation.slope=3: unknown key",
        ("dataset=mnist", "dataset.root=no", "dataset.download=false"): "dataset.root=no: no readable MNIST",
        ("hydra.launcher.jobs=3",): "hydra.launcher.jobs=3: ",
    }.items():
        assert here("sweep", *TINY[4:], "threads=1", "hydra/launcher=joblib", *words, "dir=s") == 2
        assert message in capfd.readouterr().err
    assert not Path("s").exists()
    assert here("sweep", *SWEEP, "dir=s") == 0
    assert here("sweep", "hydra/launcher=joblib", "dir=s", "resume=true", "alpha=1") == 2
    assert "alpha=1" in capfd.readouterr().err
