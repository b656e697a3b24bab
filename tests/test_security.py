"""docs/security.md: nothing that the program reads runs code, and a run's folder stays in its place."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import TINY, curves, here, mfrun
from formats import write_arrays

SWEEP = [*TINY[2:], "threads=1", "widths=[3]", "steps=5"]
TRAP = Path("sprung")


class Trap:
    """Unpickled, it leaves a file behind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (TRAP,)


def test_the_trap_works() -> None:
    pickle.loads(pickle.dumps(Trap()))
    assert TRAP.exists()


def edit_yaml(file: str, **changes: object) -> None:
    path = Path(file)
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run ``r`` and a sweep ``s``."""
    top = tmp_path_factory.mktemp("trained")
    assert here("train", *TINY, "steps=10", f"dir={top}/r") == 0
    assert here("sweep", *SWEEP, f"dir={top}/s") == 0
    return top


@pytest.fixture
def run(trained: Path) -> str:
    """The same in this test's folder."""
    shutil.copytree(trained, ".", dirs_exist_ok=True)
    return "r"


# -- states ----------------------------------------------------------------------------------------------------------


def test_a_state_that_is_a_pickle(run: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Also where whoever put it there has made the checksum fit."""
    import hashlib

    data = pickle.dumps(Trap())
    for commit in Path(run).glob("state-*.json"):
        commit.with_suffix(".safetensors").write_bytes(data)
        facts = json.loads(commit.read_text()) | {"sha256": hashlib.sha256(data).hexdigest()}
        commit.write_text(json.dumps(facts))
    assert here("train", f"dir={run}", "resume=true", "steps=20") == 0
    assert "is damaged" in capfd.readouterr().err
    assert here("train", *TINY, "steps=20", "dir=straight") == 0
    assert curves(run) == curves("straight")
    assert not TRAP.exists()


# -- YAML in a run's folder ------------------------------------------------------------------------------------------

TAGGED = "!!python/object/apply:pathlib.Path.touch [sprung]"
CALL = {"_target_": "pathlib.Path.touch", "_args_": ["sprung"]}


@pytest.mark.parametrize("file", ["r/config.yaml", "r/.hydra/overrides.yaml"])
def test_yaml_that_makes_objects(run: str, file: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path(file).write_text(f"x: {TAGGED}\n")
    assert here("train", "dir=r", "resume=true") == 2
    # Of a run alone there is no comparison, no ensemble and no prediction; its report says with which words it began.
    reading = {"compare": 2, "ensemble": 2, "predict": 2, "report": 2, "statics": 0, "plot": 0, "export": 0}
    for command, code in reading.items():
        assert here(command, "r") == (2 if file == "r/config.yaml" else code)
    assert "Traceback" not in capfd.readouterr().err
    assert not TRAP.exists()


@pytest.mark.parametrize("key", ["activation", "dataset", "particles", "scaling"])
def test_target_in_a_configuration(run: str, key: str, capfd: pytest.CaptureFixture[str]) -> None:
    saved = yaml.safe_load(Path("r/config.yaml").read_text())
    edit_yaml("r/config.yaml", **{key: {**(saved.get(key) or {}), **CALL}})
    assert here("statics", "r") == 2
    assert f"{key}._" in capfd.readouterr().err
    assert not TRAP.exists()


HYDRA = [
    "+hydra.callbacks.x={_target_: pathlib.Path.touch, _args_: [sprung]}",
    "hydra/launcher=joblib",
    "hydra.launcher._target_=pathlib.Path.touch",
    "hydra.searchpath=[file:///tmp]",
    "++hydra.run.dir=elsewhere",
]


@pytest.mark.parametrize("override", HYDRA)
def test_a_folder_does_not_configure_hydra(run: str, override: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("r/.hydra/overrides.yaml").write_text(yaml.safe_dump([*TINY, "steps=10", override]))
    assert here("train", "dir=r", "resume=true", "steps=20") == 2
    edit_yaml("s/sweep.yaml", overrides=[*SWEEP, override])
    assert here("sweep", "dir=s", "resume=true") == 2
    err = capfd.readouterr().err
    assert err.count("a run's folder does not configure Hydra") == 2
    assert not TRAP.exists()


def test_that_is_what_hydra_would_have_done() -> None:
    """On the command line, which is the user's own, Hydra's keys do what Hydra says."""
    mfrun("train", *TINY, "steps=0", "dir=r", HYDRA[0])
    assert TRAP.exists()


@pytest.mark.parametrize("overrides", ["{a: 1}", "null", "[[1]]", "[1, {a: 2}]", "5"])
def test_overrides_of_another_form(run: str, overrides: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("r/.hydra/overrides.yaml").write_text(overrides)
    assert here("train", "dir=r", "resume=true", "steps=20") == 2
    err = capfd.readouterr().err
    assert err.startswith("mfrun: ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("key", ["overrides", "swept", "runs"])
def test_a_sweep_s_lists_of_another_form(run: str, key: str, capfd: pytest.CaptureFixture[str]) -> None:
    edit_yaml("s/sweep.yaml", **{key: "a\nb\x1b"})
    for words in (["report", "s"], ["status", "s"], ["sweep", "dir=s", "resume=true"]):
        assert here(*words) == 2, words
        err = capfd.readouterr().err
        assert err.startswith("mfrun: ")
        assert err.endswith(f"s/sweep.yaml: {key}: a b : must be a list of words\n")
        assert err.count("\n") == 1


# -- code of one's own -----------------------------------------------------------------------------------------------

MODULE = """\
from pathlib import Path
Path("sprung").touch()
def phi(y, yhat):
    return yhat[:, 0]
"""
TEST_FUNCTION = "evaluation.test_functions=[mine:phi]"


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module where Python finds it, as in the folder that somebody has unpacked and works in."""
    Path("mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    monkeypatch.delitem(__import__("sys").modules, "mine", raising=False)


@pytest.mark.usefixtures("mine")
def test_code_is_imported_only_where_the_user_names_it(
    run: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*TINY, "steps=10", TEST_FUNCTION]
    Path("r/.hydra/overrides.yaml").write_text(yaml.safe_dump(words))
    edit_yaml("r/config.yaml", evaluation={"points_per_decade": 10, "samples": 50, "test_functions": ["mine:phi"]})
    export = ["export", "r", "--features", "1", "--out", "x.npz"]
    for command in (["train", "dir=r", "resume=true", "steps=20"], ["statics", "r"], export):
        assert here(*command) == 2
        assert "test_functions=mine:phi: is named by the run's folder alone" in capfd.readouterr().err
        assert not TRAP.exists()
    assert here("train", "dir=r", "resume=true", TEST_FUNCTION) == 0
    assert TRAP.exists()
    monkeypatch.setenv("MFRUN_IMPORT", "other:name,mine:phi")
    assert here("train", "dir=r", "resume=true", "steps=20") == 0


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    "words",
    [
        [TEST_FUNCTION],
        ["evaluation.test_functions=['${title}']", "title='mine:phi'"],
        ["evaluation.test_functions=['${loss.name}\\:${title}']", "loss.name=mine", "title=phi"],
        ["++activation={name: 'mine:phi'}"],
    ],
)
def test_however_the_folder_spells_it(run: str, words: list[str]) -> None:
    Path("r/.hydra/overrides.yaml").write_text(yaml.safe_dump([*TINY, "steps=10", *words]))
    assert here("train", "dir=r", "resume=true", "steps=20") == 2
    edit_yaml("s/sweep.yaml", overrides=[*SWEEP, *words])
    assert here("sweep", "dir=s", "resume=true", "widths=[3,4]") == 2
    assert not TRAP.exists()


@pytest.mark.usefixtures("mine")
def test_yaml_of_the_user_s_own_may_name_code() -> None:
    Path("own/evaluation").mkdir(parents=True)
    Path("own/figure").mkdir()
    Path("own/figure/mine.yaml").write_text("# @package _global_\nevaluation:\n  test_functions: [mine:phi]\n")
    assert here("train", *TINY, "figure=mine", "steps=10", "dir=r", "--config-dir", "own") == 0
    TRAP.unlink()
    assert here("train", "dir=r", "resume=true", "steps=20", "--config-dir", "own") == 0
    assert "phi" in Path("r/metrics.csv").read_text().splitlines()[0]


# -- data ------------------------------------------------------------------------------------------------------------


def test_pickled_arrays() -> None:
    write_arrays(Path("a.npz"))
    content = io.BytesIO()
    np.save(content, np.array([Trap()] * 4, dtype=object), allow_pickle=True)
    with zipfile.ZipFile("a.npz") as old, zipfile.ZipFile("b.npz", "w") as new:
        for name in old.namelist():
            new.writestr(name, content.getvalue() if name == "x_train.npy" else old.read(name))
    assert here("train", *TINY[:3], "dataset=arrays", "dataset.path=b.npz", "steps=1", "dir=r") == 2
    Path("c.npz").write_bytes(pickle.dumps(Trap()))
    assert here("train", *TINY[:3], "dataset=arrays", "dataset.path=c.npz", "steps=1", "dir=r") == 2
    assert not TRAP.exists()


def test_weights_that_run_code() -> None:
    torch.save({"features.0.weight": Trap()}, "w.pth")
    rng = np.random.default_rng(0)
    images = {f"x_{s}": rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8) for s in ("train", "test")}
    np.savez("i.npz", **images, y_train=np.arange(4) % 2, y_test=np.arange(4) % 2)
    words = ["dataset.source.path=i.npz", "dataset.weights=w.pth", "dataset.root=d", "dataset.size=32"]
    assert here("data", "arrays_vgg16", *words) == 2
    assert not TRAP.exists()


# -- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["metrics.csv", "run.lock"])
def test_links_are_not_written_through(run: str, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("precious").write_text("step,t\n")
    Path(run, name).unlink()
    Path(run, name).symlink_to("../precious")
    assert here("train", f"dir={run}", "resume=true", "steps=20") in (0, 2)
    assert "Traceback" not in capfd.readouterr().err
    assert Path("precious").read_text() == "step,t\n"


@pytest.mark.parametrize("name", ["config.yaml", "status.json", "state-00000020.safetensors", "state-00000020.json"])
def test_links_are_replaced(run: str, name: str) -> None:
    Path("precious").write_bytes(Path(run, "config.yaml").read_bytes())
    before = Path("precious").read_bytes()
    Path(run, name).unlink(missing_ok=True)
    Path(run, name).symlink_to("../precious")
    assert here("train", f"dir={run}", "resume=true", "steps=20") == 0
    assert Path("precious").read_bytes() == before


@pytest.mark.parametrize("override", ["++dir=../out", "dir='../out'"])
def test_the_folder_is_the_one_that_was_asked_for(override: str) -> None:
    Path("w").mkdir()
    assert here("train", *TINY, "steps=10", "dir=w/r") == 0
    Path("w/r/.hydra/overrides.yaml").write_text(yaml.safe_dump([*TINY, "steps=10", override]))
    assert here("train", "dir=w/r", "resume=true", "steps=20") == 0
    assert sorted(p.name for p in Path().iterdir()) == ["w"]


def test_a_swept_value_does_not_lead_out_of_the_sweep(capfd: pytest.CaptureFixture[str]) -> None:
    Path("w").mkdir()
    before = sorted(Path().iterdir())
    assert here("sweep", *SWEEP, "title=../../../out,/b", "dir=w/s") == 0
    edit_yaml("w/s/sweep.yaml", overrides=[*SWEEP, "title=../../../out,/b,.."])
    assert here("sweep", "dir=w/s", "resume=true") == 0
    assert {p.name for p in Path("w/s").glob("*/")} == {f"width=3,title={t}" for t in (".._.._.._out", "b", "..")}
    # Nor does a link in its place.
    Path("w/s/width=3,title=b").rename("w/b")
    Path("w/s/width=3,title=b").symlink_to("../b")
    assert here("sweep", "dir=w/s", "resume=true") == 2
    assert "leads out of it" in capfd.readouterr().err
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "null", "3", "{}", "\x00", '{"state": "running"}'),
        *('{"state": 1, "host": 2, "pid": "x"}', '{"state": 5, "host": "x", "pid": 1}'),
    ],
)
def test_status_of_another_form(run: str, content: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("r/status.json").write_text(content)
    assert here("status", "r") == 0
    assert " unknown " in capfd.readouterr().out
