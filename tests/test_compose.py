"""Configurations of a sweep: each composed once, and what Hydra would have composed."""

from __future__ import annotations

import importlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commands import LIMIT, TINY, here
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf

import mfrun
from mfrun.errors import UserError
from mfrun.shell import commandline
from mfrun.shell.compose import compose_jobs, compose_whole

SEVERAL = ["threads=1", *TINY[2:]]  # without a width
SWEPT = {
    "a width": ["width=3,5,inf"],
    "a key of a group": ["init.tau2=0.1,3", "width=4,5"],
    "groups": ["activation=relu,tanh", "schedule=constant,power", "width=3,4"],
    "a group and a key of it": ["schedule=power", "schedule.p=0.1,0.2", "activation=tanh,relu"],
    "mappings and what changes them": ["init={tau2: 2.0},{tau2: 3.0}", "init.tau1=0.5"],
    "mappings of other keys": ["particles={first:512},{last:64}", "width=3,inf"],
    "lists and texts": ["widths=[3,4],[5]", "title='a, b','c = d'"],
    "added keys": ["+note=1,2", "width=3,4"],
    "Hydra's own": ["width=3,4", "hydra.verbose=true,false"],
    "a preset": ["figure=fig8a", "init.tau2=0.1,3"],
}


@pytest.mark.parametrize("words", SWEPT.values(), ids=SWEPT)
def test_configurations_are_those_that_hydra_composes(words: list[str]) -> None:
    jobs = commandline.jobs(commandline.parse(["dir=s", *words]))
    for job, found in zip(jobs, compose_jobs(jobs, []), strict=True):
        expected = compose_whole(job, [])
        assert OmegaConf.to_container(found, resolve=False) == OmegaConf.to_container(expected, resolve=False)
        assert found.hydra.overrides.task == [word for word in job if not word.startswith("hydra.")]


def test_a_value_of_another_type_is_refused_by_its_word() -> None:
    with pytest.raises(UserError, match=r"^depth=x: "):
        compose_jobs([["depth=3"], ["depth=x"]], [])


def test_threads_of_a_program_train_at_once() -> None:
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda k: mfrun.train([*TINY, f"seed.init={k}", "steps=2", f"dir=r/{k}"]), range(4)))
    assert [run.config["seed"]["init"] for run in runs] == [0, 1, 2, 3]
    assert {run.status["state"] for run in runs} == {"finished"}


def test_files_are_composed_once_for_all_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for the sweep and once for its jobs, however many; resumed, once more for what is typed."""
    composed: list[list[str]] = []
    load = ConfigLoaderImpl.load_configuration

    def counted(self: ConfigLoaderImpl, config_name: str, overrides: list[str], *a: object, **k: object) -> DictConfig:
        composed.append(overrides)
        return load(self, config_name, overrides, *a, **k)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    assert here("sweep", *SEVERAL, "widths=[3,4,5,6]", "steps=2", "dir=s") == 0
    assert len(composed) == 2
    composed.clear()
    assert here("sweep", "dir=s", "resume=true", "steps=3") == 0
    assert len(composed) == 3
    composed.clear()
    assert here("train", *TINY, "steps=2", "dir=r") == 0
    assert len(composed) == 1


CALLBACK = """\
from hydra.experimental.callback import Callback

class Noted(Callback):
    def __getattribute__(self, name):
        if name.startswith("on_"):
            with open("called", "a") as file:
                print(name, file=file)
        return super().__getattribute__(name)
"""


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("train", ["on_run_start", "on_job_start", "on_job_end", "on_run_end"]),
        ("sweep", ["on_multirun_start", "on_job_start", "on_job_end", "on_multirun_end"]),
    ],
)
def test_callbacks_are_called(command: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("noted.py").write_text(CALLBACK)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    widths = ["widths=[3]"] if command == "sweep" else ["width=3"]
    assert here(command, *SEVERAL, *widths, "steps=1", "+hydra.callbacks.mine._target_=noted.Noted", "dir=r") == 0
    assert Path("called").read_text().split() == expected


def test_another_sweeper_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert here("sweep", *TINY, "widths=[3]", "hydra/sweeper=optuna", "dir=s") == 2
    assert capfd.readouterr().err.startswith("mfrun: hydra/sweeper=optuna: ")


# -- the rooms -------------------------------------------------------------------------------------------------------

ROOMS = sorted(p.parent.name for p in Path(mfrun.__file__).parent.glob("*/__init__.py") if p.parent.name != "conf")


def test_a_room_is_imported_without_what_its_modules_need() -> None:
    check = f"import sys, mfrun, {', '.join(f'mfrun.{room}' for room in ROOMS)}; "
    check += "print([m for m in ('torch', 'pandas', 'matplotlib', 'hydra') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_of_a_room_s_face_is_there(room: str) -> None:
    face = importlib.import_module(f"mfrun.{room}")
    assert face.__all__
    assert all(getattr(face, name) is not None for name in face.__all__)


@pytest.mark.parametrize("command", ["plot", "compare", "statics", "status"])
def test_a_mistyped_folder_is_answered_before_anything_heavy_is_imported(command: str) -> None:
    words = [sys.executable, "-X", "importtime", "-m", "mfrun", command, "nowhere"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 2
    assert "mfrun: nowhere: no such folder" in done.stderr.splitlines()
    assert not imported & {"torch", "pandas", "numpy", "matplotlib", "hydra", "omegaconf"}


def test_what_a_command_does_without() -> None:
    """plot, compare and status without torch; train without torch's compiler and matplotlib."""
    assert here("sweep", *SEVERAL, "widths=[3,5,8]", "steps=20", "dir=s") == 0
    limit = ["train", *TINY, *LIMIT, "width=inf", "init=embedding", "init.m=2", "steps=1", "dir=r"]
    for words, without in (
        (["plot", "s"], ("torch", "scipy.stats")),
        (["compare", "s"], ("torch", "scipy.stats")),
        (["status", "s"], ("torch", "numpy", "pandas")),
        (limit, ("torch._dynamo", "matplotlib")),
    ):
        check = f"from mfrun.cli import COMMANDS; COMMANDS[{words[0]!r}]({words[1:]!r})\n"
        check += f"import sys; print([m for m in {without!r} if m in sys.modules])"
        done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"
