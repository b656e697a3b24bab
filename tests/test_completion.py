"""Shell completion: what may come next, and the bash code that asks for it, in a real bash."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mfrun.cli import COMMANDS
from mfrun.shell import completion, options, usage

BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mfrun tr", {"train"}),
        ("mfrun co", {"compare", "completion"}),
        ("mfrun train data", {"dataset=", "dataset."}),
        ("mfrun train dataset=m", {"dataset=mnist"}),
        ("mfrun train width=4 loss=", {"loss=cross_entropy", "loss=huber", "loss=logistic", "loss=squared"}),
        ("mfrun train width=4 alp", {"alpha="}),
        ("mfrun train schedule=power schedule.p", {"schedule.p="}),
        ("mfrun train schedule.p", set()),
        ("mfrun train dataset=arrays dataset.pa", {"dataset.path="}),
        ("mfrun sweep wid", {"width=", "widths="}),
        ("mfrun sweep activation=relu,ta", {"activation=relu,tanh"}),
        ("mfrun sweep init.tau2=0.1,3 bat", {"batch="}),
        ("mfrun check scaling=s", {"scaling=standard"}),
        ("mfrun train no_such_key=1 bat", {"batch="}),
        ("mfrun train 'widths=[1,", set()),
        ("mfrun train --conf", {"--config-dir"}),
        ("mfrun completion ", {"bash", "zsh", "fish"}),
        ("mfrun status out", set()),
        ("mfrun data m", {"mnist"}),
        ("mfrun data cifar10_vgg16 dataset.w", {"dataset.weights="}),
        ("mfrun data arrays dataset.path=a.npz thr", {"threads="}),
        ("mfrun nonsense ", set()),
    ],
)
def test_candidates(line: str, expected: set[str]) -> None:
    assert set(completion.candidates(line, COMMANDS)) == expected


def test_commands_and_keys() -> None:
    assert set(completion.candidates("mfrun ", COMMANDS)) == {
        "train",
        "sweep",
        "plot",
        "compare",
        "statics",
        "predict",
        "ensemble",
        "check",
        "status",
        "export",
        "report",
        "data",
        "completion",
    }
    keys = completion.candidates("mfrun train ", COMMANDS)
    assert {"width=", "depth=", "steps=", "dataset=", "seed.", "particles."} <= set(keys)
    assert not [k for k in keys if k.startswith("hydra")]
    assert "hydra.job." in completion.candidates("mfrun train hydra.", COMMANDS)


def test_options_of_predict_are_its_parser_s() -> None:
    own = {name for action in options.predict()._actions for name in action.option_strings}
    offered = set(completion.candidates("mfrun predict --", COMMANDS))
    assert offered == own | {"--help", *completion._FLAGS}
    assert all(option in usage.text("predict") for option in offered - {"--help"})


@pytest.mark.parametrize("command", ["plot", "compare", "status", "export"])
def test_options_of_the_other_commands(command: str) -> None:
    found = completion.candidates(f"mfrun {command} --", COMMANDS)
    assert "--help" in found
    assert all(option.startswith("--") for option in found)
    assert ("--latest" in found) == (command != "export")


def test_an_answer_needs_no_torch() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "mfrun", "_complete", "mfrun train data"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["dataset.", "dataset="]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported
    assert "torch" not in imported


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """``mfrun`` on the path, in an empty folder."""
    return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PS1": "$ ", "TERM": "dumb", "HOME": str(tmp_path)}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mfrun tra", ["train"]),
        ("mfrun train dataset=m", ["mnist"]),  # bash replaces what follows the "="
        ("mfrun train dep", ["depth="]),
        ("mfrun sweep activation=relu,ta", ["relu,tanh"]),
    ],
)
def test_function_in_bash(environment: dict[str, str], tmp_path: Path, line: str, expected: list[str]) -> None:
    script = f"""
        eval "$(mfrun completion bash)"
        complete -p mfrun
        COMP_LINE='{line}' COMP_POINT={len(line)}
        _mfrun 2>/dev/null
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path, check=True
    )
    assert done.stderr == ""
    first, *found = done.stdout.splitlines()
    assert first == "complete -o default -F _mfrun mfrun"
    assert found == expected


def test_the_tab_key(environment: dict[str, str], tmp_path: Path) -> None:
    """An interactive bash on a terminal, with the words typed and Tab pressed."""
    (tmp_path / "results").mkdir()
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], environment)
    seen = ""

    def expect(text: str) -> None:
        nonlocal seen
        end = time.monotonic() + 30
        while text not in seen:
            assert time.monotonic() < end, seen
            if select.select([terminal], [], [], 0.1)[0]:
                seen += os.read(terminal, 4096).decode()
        seen = seen[seen.index(text) + len(text) :]

    try:
        os.write(terminal, b'eval "$(mfrun completion bash)"; echo re""ady\n')
        expect("\nready")
        for typed, completed in {
            b"mfrun tra\t": "mfrun train ",
            b"dataset=mn\t": "dataset=mnist ",
            b"dep\t": "depth=",
            b"3 dir=res\t": "dir=results/",
        }.items():
            os.write(terminal, typed)
            expect(completed)
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    assert completion.main([shell]) == 0
    script = capsys.readouterr().out
    assert "mfrun _complete" in script


def test_choices_and_files_of_one_s_own(tmp_path: Path) -> None:
    assert completion.candidates("mfrun train sampling=", COMMANDS) == ["sampling=iid", "sampling=epochs"]
    assert completion.candidates("mfrun sweep dtype=float32,f", COMMANDS) == [
        "dtype=float32,float32",
        "dtype=float32,float64",
    ]
    (tmp_path / "figure").mkdir()
    (tmp_path / "figure" / "my_own.yaml").write_text("# @package _global_\nwidth: 4\n")
    for flag in (f"--config-dir {tmp_path}", f"--config-dir={tmp_path}"):
        assert "figure=my_own" in completion.candidates(f"mfrun train {flag} figure=my", COMMANDS)
