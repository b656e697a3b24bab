"""The commands as a user types them: what they print, write and return; stopping, killing and resuming."""

from __future__ import annotations

import itertools
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from commands import ARRAYS, LIMIT, TINY, curves, here, mfrun, rows, start, status, steps_logged, wait_until
from formats import write_arrays

from mfrun import __version__, cli
from mfrun.dynamics.evaluate import grid

# -- help and printing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv", [["--help"], ["train", "--help"], ["sweep", "-h"], ["check", "-h"], ["completion", "--help"], ["--version"]]
)
def test_help_is_quick(argv: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mfrun", *argv], capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "mfrun.cli" in imported
    assert not imported & {"torch", "torchvision", "pandas", "matplotlib"}
    assert done.stdout.strip()


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert here("--help") == here() == 0
    text = capsys.readouterr().out
    assert all(f"mfrun {name} " in text for name in cli.VISIBLE)


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_help_lists_every_key_and_option(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert here(command, "--help") == 0
    text = capsys.readouterr().out
    conf = Path(__file__).parent.parent / "conf"
    top = yaml.safe_load((conf / "config.yaml").read_text())
    for key in set(top) - {"defaults", "hydra"}:
        assert re.search(rf"^  {key}\b", text, re.MULTILINE), key
    for file in conf.glob("*/*.yaml"):
        section = text[text.index(f"\n  {file.parent.name}=") :]
        assert re.search(rf"^    {file.stem}\b +\S", section, re.MULTILINE), file
    for full in ("schedule.p", "init.tau2", "dataset.delta", "seed.data", "particles.sets", "evaluation.samples"):
        assert f" {full} " in text


def test_version() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "mfrun", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == __version__


# In processes of their own: Hydra leaves its debug logging on when it has printed.
def test_cfg_job() -> None:
    code, out, err = mfrun("train", "--cfg", "job", "width=7", "activation=tanh")
    assert (code, err) == (0, "")
    printed = yaml.safe_load(out)
    assert (printed["width"], printed["activation"], printed["dataset"]["name"]) == (7, {"name": "tanh"}, "gaussians")
    assert list(Path().iterdir()) == []


def test_info_defaults() -> None:
    code, out, _ = mfrun("train", "--info", "defaults")
    assert code == 0
    assert re.search(r"\| *schedule/constant *\|", out)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(("short", "long"), [("-cjob", "--cfg=job"), ("-iconfig", "--info=config")])
def test_a_flag_s_value_may_be_joined_to_it(short: str, long: str) -> None:
    assert mfrun("train", short, "width=7") == mfrun("train", long, "width=7")
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--resolve"], "--resolve: is about what --cfg prints"),
        (["--package", "nix"], "--package: is about what --cfg prints"),
        (["--multirun"], "--multirun: has no meaning here"),
        (["--run"], "--run: has no meaning here"),
        (["--experimental-rerun", "x"], "--experimental-rerun x: dir=FOLDER resume=true goes on"),
        (["--hyd"], "unrecognized arguments: --hyd"),
        (["-cdfoo"], "invalid choice: 'dfoo'"),
    ],
)
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_flags_without_a_meaning_are_refused(
    command: str, flags: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert here(command, *TINY, "steps=1", *flags) == 2
    error = capfd.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_command_that_reads_says_nothing_of_training_where_the_disk_is_full(unbuffered: str) -> None:
    assert here("train", *TINY, "steps=1", "dir=r") == 0
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mfrun", "status", "r"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert done.returncode == 1
    assert re.fullmatch(r"mfrun: No space left on device( \(--debug shows where\))?\n", done.stderr)


# -- train -----------------------------------------------------------------------------------------------------------


def test_train() -> None:
    code, out, err = mfrun("train", *TINY, "steps=120", "replicates=2", "dir=r")
    assert code == 0, err
    assert "Traceback" not in err
    assert "n=4  step 120/120" in err
    assert re.search(r"^ *r +finished +120/120 ", out, re.MULTILINE)
    names = {p.name for p in Path("r").iterdir()}
    assert names == {
        ".hydra", "config.yaml", "metrics.csv", "run.lock", "run.log", "status.json",
        "state-00000120.json", "state-00000120.safetensors", "state-00000100.json", "state-00000100.safetensors",
    }  # fmt: skip
    table = rows("r")
    assert list(table[0]) == [
        "step", "t", "replicate", "population_loss", "population_error", "nonpositive_1", "nonpositive_2",
        "population_loss_se", "population_error_se", "wall_seconds",
    ]  # fmt: skip
    assert [(int(r["step"]), int(r["replicate"])) for r in table] == list(itertools.product(grid(120, 10), (0, 1)))
    assert all(float(r["t"]) == pytest.approx(0.001 * int(r["step"])) for r in table)
    assert len({r["population_loss"] for r in table if r["step"] == "0"}) == 2
    saved = yaml.safe_load(Path("r/config.yaml").read_text())
    assert (saved["width"], saved["steps"], saved["dataset"]) == (4, 120, {"name": "gaussians", "d": 3, "delta": 0.4})
    assert (status("r")["state"], status("r")["step"]) == ("finished", 120)


def test_train_the_limit() -> None:
    assert here("train", *TINY, *LIMIT, "width=inf", "steps=10", "dir=r") == 0
    assert {"population_loss", "population_loss_bar", "nonpositive_2_bar"} < set(rows("r")[0])
    assert yaml.safe_load(Path("r/config.yaml").read_text())["width"] == "inf"


def test_default_folder_and_hydra_s_own_key(capfd: pytest.CaptureFixture[str]) -> None:
    assert here("train", *TINY, "steps=0") == 0
    (run,) = Path("outputs/gaussians").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", run.name)
    assert here("train", *TINY, "steps=0", "hydra.run.dir=elsewhere") == 0
    assert Path("elsewhere/metrics.csv").exists()


def test_finite_data_have_two_splits() -> None:
    write_arrays(Path("a.npz"))
    assert here("train", *ARRAYS, "steps=20", "evaluation.test_functions=[mean,margin]", "dir=r") == 0
    wanted = {f"{split}_{m}" for split in ("train", "test") for m in ("loss", "error", "mean", "margin")}
    assert wanted < set(rows("r")[0])


def test_diverging_run(capfd: pytest.CaptureFixture[str]) -> None:
    assert here("train", *TINY, "alpha=1e6", "steps=5000", "dir=r") == 3
    assert status("r")["state"] == "diverged"
    assert "n=4  diverged: the loss is not finite at step" in capfd.readouterr().err
    assert rows("r")[0]["step"] == "0"
    assert float(rows("r")[0]["population_loss"]) < 100
    assert 0 < int(str(status("r")["step"])) < 5000
    before = curves("r")
    assert here("train", "dir=r", "resume=true") == 3
    assert curves("r") == before


# -- stopping and resuming -------------------------------------------------------------------------------------------

# A state saved at almost every chance.
LONG = ["steps=20000", "checkpoint_seconds=0.05"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stop_and_resume(number: signal.Signals, code: int, capfd: pytest.CaptureFixture[str]) -> None:
    process = start("train", *TINY, *LONG, "dir=r", hold=10000)
    wait_until(lambda: steps_logged("r") >= 1000, process)
    assert here("train", "dir=r", "resume=true") == 2
    assert re.fullmatch(r"mfrun: dir=.*r: another process is training in this folder\n", capfd.readouterr().err)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert (
        err.strip().splitlines()[-1]
        == "mfrun: stopped; the state is saved; mfrun train dir=r resume=true goes on from it"
    )
    assert "Traceback" not in err
    stopped = int(str(status("r")["step"]))
    assert status("r")["state"] == "interrupted"
    assert 1000 <= stopped < 20000
    assert Path(f"r/state-{stopped:08d}.safetensors").exists()

    assert here("train", "dir=r", "resume=true") == 0
    assert here("train", *TINY, *LONG, "dir=straight") == 0
    assert curves("r") == curves("straight")


KILLED = {
    "epochs": [*ARRAYS, "sampling=epochs", "replicates=2", "replicate_data=independent", "evaluation.samples=7"],
    "limit": [*TINY, *LIMIT, "width=inf", "schedule=power", "init.tau3=0.5"],
}


@pytest.mark.parametrize("kind", KILLED)
def test_kill_and_resume(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    write_arrays(Path("a.npz"))
    moment = random.Random(kind)
    argv = [*KILLED[kind], "steps=4000"]
    process = start("train", *argv, "checkpoint_seconds=0.01", "dir=r", hold=1500)
    for resume in range(2):
        first = steps_logged("r")
        wait_until(lambda first=first: steps_logged("r") > first, process)
        time.sleep(moment.uniform(0, 0.15))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert here("status", "r") == 0
        assert " r  killed " in re.sub(" +r +", " r  ", capfd.readouterr().out)
        if resume < 1:
            process = start("train", "dir=r", "resume=true", hold=3000)
    assert here("train", "dir=r", "resume=true") == 0
    assert here("train", *argv, "dir=straight") == 0
    assert curves("r") == curves("straight")
    # Nothing half-written is left, nor a state that was never committed.
    assert {p.name for p in Path("r").iterdir() if p.name[0] == "."} == {".hydra"}
    assert len(list(Path("r").glob("state-*"))) == 4


def test_out_of_memory(capfd: pytest.CaptureFixture[str]) -> None:
    """More samples than a machine has addresses for: a line, and no torch's own words."""
    assert here("train", *TINY, "evaluation.samples=1e14", "dir=r") == 1
    assert capfd.readouterr().err.splitlines()[-1] == (
        "mfrun: out of memory; mfrun sweep ... --dry-run says what a run takes (--debug shows where)"
    )
    assert status("r")["error"] == "out of memory; mfrun sweep ... --dry-run says what a run takes"
    assert here("sweep", TINY[0], *TINY[2:], "widths=[3]", "evaluation.samples=1e14", "dir=s") == 1
    err = capfd.readouterr().err
    assert "mfrun: width=3: out of memory; " in err
    assert "Traceback" not in err


def test_longer_run_on_resume() -> None:
    assert here("train", *TINY, "steps=300", "dir=r") == 0
    assert here("train", "dir=r", "resume=true", "steps=700") == 0
    assert here("train", *TINY, "steps=700", "dir=straight") == 0
    assert curves("r") == curves("straight")
    assert yaml.safe_load(Path("r/config.yaml").read_text())["steps"] == 700
    # ... and the next resume knows the new length.
    assert here("train", "dir=r", "resume=true") == 0
    assert curves("r") == curves("straight")


def test_schedule_that_depends_on_the_length_cannot_grow(capfd: pytest.CaptureFixture[str]) -> None:
    assert here("train", *TINY, "schedule=cosine", "steps=30", "dir=r") == 0
    assert here("train", "dir=r", "resume=true", "steps=70") == 2
    assert "steps=70: r was started with steps=30" in capfd.readouterr().err


def test_damaged_state(capfd: pytest.CaptureFixture[str]) -> None:
    assert here("train", *TINY, "steps=300", "dir=r") == 0
    newest = Path("r/state-00000300.safetensors")
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 0xFF
    newest.write_bytes(data)
    assert here("train", "dir=r", "resume=true", "steps=700") == 0
    assert "state-00000300.safetensors is damaged; going back to the state before it" in capfd.readouterr().err
    assert here("train", *TINY, "steps=700", "dir=straight") == 0
    assert curves("r") == curves("straight")


@pytest.mark.parametrize("damage", ["all states", "no states", "no status", "cut commit"])
def test_more_damage(damage: str) -> None:
    assert here("train", *TINY, "steps=100", "dir=r") == 0
    for file in Path("r").glob("state-*"):
        if damage == "no states":
            file.unlink()
        elif damage == "all states" or (damage == "cut commit" and file.name == "state-00000100.json"):
            file.write_bytes(file.read_bytes()[:10])
    if damage == "no status":
        Path("r/status.json").unlink()
    assert here("train", "dir=r", "resume=true", "steps=200") == 0
    assert here("train", *TINY, "steps=200", "dir=straight") == 0
    assert curves("r") == curves("straight")


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_cut_line(cut: int, capfd: pytest.CaptureFixture[str]) -> None:
    assert here("train", *TINY, "steps=316", "replicates=2", "dir=r") == 0
    metrics = Path("r/metrics.csv")
    metrics.write_bytes(metrics.read_bytes()[:-cut])
    assert here("train", "dir=r", "resume=true", "steps=700") == 0
    assert here("train", *TINY, "steps=700", "replicates=2", "dir=straight") == 0
    assert curves("r") == curves("straight")


# -- sweep -----------------------------------------------------------------------------------------------------------


def test_sweep() -> None:
    code, out, err = mfrun(
        "sweep", *TINY[2:], *LIMIT, "threads=1", "widths=[3,5,inf]", "init.tau2=0.1,3", "steps=20", "dir=s"
    )
    assert code == 0, err
    names = [f"width={n},init.tau2={tau}" for n in (3, 5, "inf") for tau in (0.1, 3.0)]
    assert sorted(p.name for p in Path("s").iterdir() if p.is_dir()) == sorted(names)
    for name in names:
        assert re.search(rf"^ *{re.escape(name)} +finished +20/20 ", out, re.MULTILINE)
        config = yaml.safe_load(Path("s", name, "config.yaml").read_text())
        assert name == f"width={config['width']},init.tau2={config['init']['tau2']}"
    assert out.strip().splitlines()[-1] == "mfrun plot s"
    recorded = yaml.safe_load(Path("s/sweep.yaml").read_text())
    assert recorded["swept"] == ["width", "init.tau2"]
    assert {"widths=[3,5,inf]", "init.tau2=0.1,3", "steps=20"} < set(recorded["overrides"])
    # A run of a sweep is the run that mfrun train gives.
    assert here("train", *TINY, "width=5", "init.tau2=3", "steps=20", "dir=r") == 0
    assert curves("r") == curves("s/width=5,init.tau2=3.0")


def test_sweep_over_a_group_and_status(capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        here("sweep", *TINY[2:], "threads=1", "width=3,4", "activation=relu,tanh", "steps=5", "hydra.sweep.dir=s") == 0
    )
    names = {f"width={n},activation={a}" for n in (3, 4) for a in ("relu", "tanh")}
    assert {p.name for p in Path("s").iterdir() if p.is_dir()} == names
    assert curves("s/width=3,activation=relu") != curves("s/width=3,activation=tanh")
    capfd.readouterr()
    assert here("status", "s") == 0
    out = capfd.readouterr().out
    assert out.splitlines()[0] == "s"
    assert all(re.search(rf"^ *{name} +finished +5/5 ", out, re.MULTILINE) for name in names)


def test_every_width_sees_the_same_data() -> None:
    """Neurons that start alike stay alike, so that the output is one function of the data, whatever their number."""
    alike = ["init.tau1=0", "init.tau2=0", "init.mu3=0.7", "activation=tanh", "alpha=0.05", "dtype=float64"]
    assert (
        here("sweep", *TINY[2:], *LIMIT, "threads=1", *alike, "widths=[1,6,inf]", "seed.data=0,1", "steps=50", "dir=s")
        == 0
    )
    runs = {(n, k): [float(r["population_loss"]) for r in rows(f"s/width={n},seed.data={k}")]
            for n in (1, 6, "inf") for k in (0, 1)}  # fmt: skip
    for k in (0, 1):
        assert runs[6, k] == pytest.approx(runs[1, k], rel=1e-9)
        assert runs["inf", k] == pytest.approx(runs[1, k], rel=1e-9)
    assert runs[1, 0] != pytest.approx(runs[1, 1], rel=1e-4)


def test_diverging_run_in_a_sweep(capfd: pytest.CaptureFixture[str]) -> None:
    argv = [*TINY[2:], "threads=1", "widths=[3,4]", "alpha=1e6,0.01", "steps=3000", "dir=s"]
    assert here("sweep", *argv) == 0
    for n in (3, 4):
        assert status(f"s/width={n},alpha=1000000.0")["state"] == "diverged"
        assert status(f"s/width={n},alpha=0.01")["state"] == "finished"


def test_a_sweep_that_only_diverged_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    argv = [*TINY[2:], "threads=1", "widths=[3,4]", "alpha=1e6", "steps=3000", "dir=s"]
    assert here("sweep", *argv) == 3
    assert here("sweep", "dir=s", "resume=true") == 3


def test_commands_that_are_suggested_can_be_typed(capfd: pytest.CaptureFixture[str]) -> None:
    place = Path("a b/it's")
    assert here("sweep", *TINY[2:], "threads=1", "widths=[3]", "steps=1", f"dir={place}") == 0
    said = [shlex.split(capfd.readouterr().out.splitlines()[-1])]
    assert said == [["mfrun", "plot", str(place)]]
    assert here("train", f"dir={place}", "resume=true") == 2
    command = capfd.readouterr().err.partition("; ")[2].removesuffix(" goes on with it\n")
    assert shlex.split(command) == ["mfrun", "sweep", f"dir={place}", "resume=true"]
    assert here(*shlex.split(command)[1:]) == 0


def test_stopped_sweep_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    argv = [*TINY[2:], "threads=1", "alpha=0.01", "steps=8000"]
    process = start("sweep", *argv, "widths=[3,5]", "dir=s", hold=4000, only="width=3")
    wait_until(lambda: steps_logged("s/width=3") >= 100, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "mfrun: stopped; the state is saved; mfrun sweep dir=s resume=true goes on from it"
    # The longest run comes first.
    assert (status("s/width=5")["state"], status("s/width=3")["state"]) == ("finished", "interrupted")
    finished = Path("s/width=5/metrics.csv").stat().st_mtime_ns

    assert here("sweep", "dir=s", "resume=true", "widths=[3,5,6]") == 0
    assert Path("s/width=5/metrics.csv").stat().st_mtime_ns == finished
    for n in (3, 6):
        assert here("train", *argv, f"width={n}", f"dir=straight{n}") == 0
        assert curves(f"s/width={n}") == curves(f"straight{n}")
    # One run of the sweep can be lengthened by itself.
    capfd.readouterr()
    assert here("train", "dir=s/width=3", "resume=true", "steps=8100") == 0
    assert "8100/8100" in capfd.readouterr().out


def test_precision() -> None:
    """bf16 rounds the factors: the curve starts beside float32's and is another one; the log names the library."""
    argv = [*TINY, "steps=200", "alpha=0.1"]
    code, _, err = mfrun("train", *argv, "dir=a")
    assert (code, bool(re.search(r"n=4  1 thread, products by \w+\n", err))) == (0, True)
    assert here("train", *argv, "precision=bf16", "dir=b") == 0
    pairs = [
        (float(x["population_loss"]), float(y["population_loss"])) for x, y in zip(rows("a"), rows("b"), strict=True)
    ]
    assert pairs[0][0] == pytest.approx(pairs[0][1], rel=1e-2)
    assert 1e-6 < max(abs(x - y) for x, y in pairs) < 0.1


def test_broken_pipe() -> None:
    # The reader is gone before the first line.
    for words in ("", "train --help", "plot --help"):
        command = f"(sleep 0.2; {sys.executable} -m mfrun {words}) | true"
        done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_training_goes_on_where_nobody_reads() -> None:
    """The reader of its lines is gone before the first one; what they say is in run.log."""
    words = shlex.join([*TINY, "steps=30", "dir=r"])
    subprocess.run(["bash", "-c", f"{sys.executable} -m mfrun train {words} 2>&1 | true"], check=True)
    assert (status("r")["state"], steps_logged("r")) == ("finished", 30)
    assert "step 30/30: finished" in Path("r/run.log").read_text()


def test_a_logger_s_files_are_no_runs(capfd: pytest.CaptureFixture[str]) -> None:
    """W&B keeps a config.yaml of its own below the run's folder."""
    assert here("train", *TINY, "steps=1", "dir=o/r") == 0
    file = Path("o/r/wandb/run-1/files/config.yaml")
    file.parent.mkdir(parents=True)
    file.write_text("width:\n  value: 4\n")
    capfd.readouterr()
    for folder in ("o", "o/r"):
        assert here("status", folder) == 0
        assert len(capfd.readouterr().out.splitlines()) == 2
        assert here("plot", folder) == 0
        assert capfd.readouterr().out == f"{folder}/curves.png\n"
    assert here("status", "--latest", "o") == 0
    assert "files" not in capfd.readouterr().out


def test_a_state_of_another_network_is_told_in_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    """As a run's folder from another version of the program may hold it."""
    assert here("train", *TINY, "steps=2", "dir=r") == 0
    text = Path("r/config.yaml").read_text()
    Path("r/config.yaml").write_text(text.replace("width: 4", "width: 5"))
    assert here("statics", "r") == 2
    said = "a saved state does not fit: W1 is of shape (1, 4, 3), and (1, 5, 3) in the network of its configuration"
    assert said in capfd.readouterr().err
