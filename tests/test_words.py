"""Words that a person types, and lines that answer them: each says what there is, what is allowed, and is true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import TINY, here, mfrun

import mfrun as program
from mfrun import __version__
from mfrun.cli import COMMANDS
from mfrun.config import conf_dir, validated
from mfrun.dynamics.experiment import assemble
from mfrun.dynamics.warnings import warn
from mfrun.errors import UserError
from mfrun.networks.architecture import MEASURES
from mfrun.networks.particles import METHODS
from mfrun.registry import names, suggest
from mfrun.shell import completion
from mfrun.shell.compose import compose

SEVERAL = ["threads=1", *TINY[2:]]
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def refusal(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command answers bad input with."""
    capfd.readouterr()
    assert here(*words) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(r"mfrun: [^\n]+\n", err)
    return err.removeprefix("mfrun: ").strip()


# -- what --cfg prints -----------------------------------------------------------------------------------------------


# In processes of their own: Hydra leaves its debug logging on when it has printed.
def printed(*words: str) -> dict[str, object]:
    code, out, err = mfrun(*words, "--cfg", "job")
    assert (code, err) == (0, "")
    return yaml.safe_load(out)


def test_cfg_of_a_sweep_is_its_first_run_s() -> None:
    words = ["dataset=gaussians", "widths=[50,inf]", "init.tau2=3,0.1", "steps=1e3", "--dry-run"]
    first = printed("sweep", *words)
    assert (first["width"], first["init"]["tau2"], first["steps"]) == (50, 3.0, 1000)
    assert list(Path().iterdir()) == []


def test_cfg_of_a_preset_that_sweeps() -> None:
    whole = yaml.safe_load((conf_dir() / "figure/fig8a.yaml").read_text())
    first = printed("sweep", "+figure=fig8a")
    assert str(first["width"]) == str(whole["widths"][0])


def test_cfg_of_what_is_resumed_is_its_own() -> None:
    assert here("train", *TINY, "steps=1", "dir=outputs/r") == 0
    assert here("sweep", *SEVERAL, "widths=[5,6]", "steps=1", "dir=outputs/s") == 0
    run = printed("train", "--latest", "resume=true")
    assert (run["width"], run["dir"], run["batch"]) == (4, "outputs/r", 5)
    assert printed("train", "dir=outputs/r", "resume=true") == run
    assert printed("sweep", "--latest", "resume=true")["width"] == 5


@pytest.mark.parametrize("command", ["predict", "check"])
def test_cfg_beside_options_and_several_values(command: str) -> None:
    options = ["--tolerance", "0.2", "--metrics=test_loss"] if command == "predict" else ["--train"]
    assert printed(command, *options, "alpha=0.1,0.2")["alpha"] == 0.1


def test_cfg_of_several_runs_is_refused_where_one_is_trained(capfd: pytest.CaptureFixture[str]) -> None:
    assert refusal(capfd, "train", "width=3,4", "--cfg", "job").startswith("width=3,4: several values; mfrun sweep")
    assert refusal(capfd, "train", "--dry-run", "--cfg", "job").startswith("unrecognized arguments: --dry-run")
    assert refusal(capfd, "train", "--latest", "--cfg", "job").startswith("--latest: goes on with the newest one")


# -- one run or several ----------------------------------------------------------------------------------------------


def test_widths_are_a_sweep_s(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    said = "widths=[3,4,inf]: mfrun sweep trains one run for each; width=N is this command's"
    assert refusal(capfd, "train", *SEVERAL, "widths=[3,4,inf]", "steps=0") == said
    with pytest.raises(UserError, match=re.escape(said)):
        program.train([*SEVERAL, "widths=[3,4,inf]", "steps=0"])
    assert list(folder.iterdir()) == []


def test_widths_of_a_preset_and_of_a_sweep_s_run_are_not_typed() -> None:
    Path("own/figure").mkdir(parents=True)
    Path("own/figure/mine.yaml").write_text("# @package _global_\nwidths: [3, 4]\n")
    assert here("train", "--config-dir", "own", "figure=mine", *TINY, "steps=0", "dir=r") == 0
    assert here("sweep", *SEVERAL, "widths=[3,4]", "steps=1", "dir=s") == 0
    assert here("train", "dir=s/width=4", "resume=true", "steps=2") == 0


# -- resuming --------------------------------------------------------------------------------------------------------


def test_what_may_change_on_resume_is_said_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    assert here("train", *TINY, "steps=4", "dir=r") == 0
    may = "only a longer steps=, or a larger budget= of it, may change what a run computes on resume=true"
    for typed, key in (
        ("batch=6", "batch=6: r was started with batch=5"),
        ("budget=0.5", "steps=2: r was started with"),
    ):
        said = refusal(capfd, "train", "dir=r", "resume=true", typed)
        assert said.startswith(key)
        assert said.endswith(may)
    assert here("train", "dir=r", "resume=true", "title=another", "checkpoint_seconds=5", "device=cpu") == 0
    assert here("train", "dir=r", "resume=true", "steps=8", "budget=0.75") == 0
    assert here("train", "dir=r", "resume=true", "budget=1", "steps=8") == 0


@pytest.mark.parametrize("command", ["train", "sweep", "predict"])
def test_resume_needs_to_know_of_what(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    said = refusal(capfd, command, "resume=true")
    assert said.startswith("resume=true: name what to go on with, dir=FOLDER; ")
    assert said.endswith("take the newest with --latest")


def test_latest_needs_resume(capfd: pytest.CaptureFixture[str]) -> None:
    said = "--latest: goes on with the newest one below outputs, and needs resume=true beside it"
    assert refusal(capfd, "train", "--latest") == refusal(capfd, "sweep", "--latest") == said


# -- what a value may be ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed=1"], "seed=1: is a node with keys of its own; set those, seed.init, seed.data, seed.eval"),
        (
            ["particles=3"],
            "particles=3: is a node with keys of its own; set those, particles.first, particles.inner, .*method",
        ),
        (
            ["hydra.launcher.timeout_min=5"],
            "hydra.launcher.timeout_min=5: hydra/launcher=local has no such key; it is a key of "
            "hydra/launcher=submitit_local, hydra/launcher=submitit_slurm",
        ),
        (["hydra.launcher.foo=5"], "hydra.launcher.foo=5: hydra/launcher=local has no such key"),
        (["device=gpu"], "device=gpu: not available; one of auto, cpu, cuda, cuda:N"),
        (["device=1"], "device=1: not available; one of auto, cpu, cuda, cuda:N"),
        (["dataset=MNIST"], "dataset=MNIST: unknown; one of .*; did you mean mnist?"),
        (["activation=ReLU"], "activation=ReLU: unknown; one of .*; did you mean relu?"),
        (["Width=4"], "Width=4: unknown key; .*; did you mean width?"),
    ],
)
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_allowed(command: str, words: list[str], said: str, capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    assert re.fullmatch(said.replace("?", r"\?"), refusal(capfd, command, *words, "steps=0"))
    assert list(folder.iterdir()) == []


def test_a_suggestion_keeps_its_own_case() -> None:
    assert suggest("MY_OWN", ["My_Own", "other"]) == "; did you mean My_Own?"
    assert suggest("xyz", ["My_Own", "other"]) == ""


# -- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
@pytest.mark.parametrize(("command", "width"), [("train", "width=4"), ("sweep", "widths=[4]")])
def test_a_folder_that_cannot_be_made(
    command: str, width: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = r"dir=/proc/foo(/\w+)?: (cannot be made \(No such file or directory\)|no permission to write in /proc)"
    assert re.fullmatch(said, refusal(capfd, command, *SEVERAL, width, "steps=0", "dir=/proc/foo"))
    long = "a" * 300
    said = refusal(capfd, command, *SEVERAL, width, "steps=0", f"dir={long}")
    assert said == f"dir={long}: cannot be a folder (File name too long)"
    monkeypatch.chdir("/proc")
    said = r"dir=outputs/gaussians\S*: (cannot be made|no permission)"
    assert re.match(said, refusal(capfd, command, *SEVERAL, width, "steps=0"))


# -- the version -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["-V", "--version", "version"])
def test_version(word: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert here(word) == 0
    assert capfd.readouterr().out == f"{__version__}\n"
    assert here("--help") == 0
    assert "  mfrun --version  " in capfd.readouterr().out


# -- threads ---------------------------------------------------------------------------------------------------------


def test_more_threads_than_cores_are_told(capfd: pytest.CaptureFixture[str]) -> None:
    said = f"mfrun: warning: threads={CORES + 1}: more than the cores that this process may use, {CORES}; "
    words = [*TINY[1:], f"threads={CORES + 1}", "steps=0"]
    for command in (["train", *words, "dir=r"], ["sweep", *words, "dir=s", "--dry-run"]):
        assert here(*command) == 0
        assert capfd.readouterr().err.count(said) == 1
    assert here("train", *words[:-2], f"threads={CORES}", "steps=0", "dir=t") == 0
    assert "warning" not in capfd.readouterr().err


def test_cores_elsewhere_are_not_known(capfd: pytest.CaptureFixture[str]) -> None:
    cfg = validated(compose([*TINY, f"threads={CORES + 1}"], []))
    warn([assemble(cfg)])
    assert capfd.readouterr().err == ""


# -- completion ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mfrun train resume=", ["resume=true", "resume=false"]),
        ("mfrun sweep resume=false,t", ["resume=false,true"]),
        ("mfrun train particles.union=", ["particles.union=true", "particles.union=false"]),
        ("mfrun train dataset=mnist dataset.download=f", ["dataset.download=false"]),
        ("mfrun train init=embedding init.law=u", ["init.law=uniform"]),
        ("mfrun train device=c", ["device=cpu", "device=cuda"]),
        ("mfrun plot --x ", ["step", "t"]),
        ("mfrun plot s --yscale l", ["log", "linear"]),
        ("mfrun plot s --format p", ["png", "pdf"]),
        ("mfrun predict --format s", ["svg"]),
        ("mfrun sweep depth=4 --cfg ", ["job", "hydra", "all"]),
        ("mfrun plot --title ", []),
        ("mfrun plot ", []),
    ],
)
def test_values_are_completed(line: str, expected: list[str]) -> None:
    assert completion.candidates(line, COMMANDS) == expected


def test_values_are_those_that_there_are() -> None:
    """Modules that import torch know them, and completion is too quick for these."""
    assert list(completion.CHOICES["init.law"]) == names("law")
    assert completion.CHOICES["particles.method"] == METHODS
    assert completion.CHOICES["stand_in.measure"] == MEASURES


def test_values_need_no_torch() -> None:
    check = "import sys; from mfrun.cli import COMMANDS; from mfrun.shell import completion\n"
    check += "found = [completion.candidates(f'mfrun {line}', COMMANDS) for line in ('train init.law=', 'plot --x ')]\n"
    check += "print(all(found), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"
