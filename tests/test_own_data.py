"""Data as people have them: tables, labels of any kind, no test set, inputs of any size."""

from __future__ import annotations

import json
import os
import random
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import TINY, curves, here

import mfrun
from mfrun.errors import ConfigError
from mfrun.problems.arrays import Arrays
from mfrun.problems.problem import FiniteProblem
from mfrun.problems.tasks import Task

FITS = ["threads=1", "width=4", "depth=3", "batch=6", "steps=20", "dataset=arrays"]


def load(**keys: object) -> FiniteProblem:
    problem = Arrays(**keys).load(torch.float64, torch.device("cpu"))  # type: ignore[arg-type]
    assert isinstance(problem, FiniteProblem)
    return problem


def table(count: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(count, 3)) * [1, 10, 100] + [0, 5, -50], columns=["a", "b", "c"])
    frame["kind"] = np.where(frame["a"] > 0, "dog", "cat")
    frame["score"] = frame["a"] - 0.1 * frame["b"]
    return frame


# pandas keeps texts in one way where pyarrow is there, and in another one where it is not.
@pytest.mark.parametrize(
    ("file", "sep", "storage"), [("t.csv", ",", "python"), ("t.tsv", "\t", "python"), ("t.csv", ",", "pyarrow")]
)
def test_a_table_trains(file: str, sep: str, storage: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pd.option_context("mode.string_storage", storage):
        trained_on_a_table(file, sep, capfd)


def trained_on_a_table(file: str, sep: str, capfd: pytest.CaptureFixture[str]) -> None:
    frame = table()
    frame.drop(columns="score").to_csv(file, index=False, sep=sep)
    words = [f"dataset.path={file}", "dataset.target=kind", "dataset.test_fraction=0.25", "loss=cross_entropy"]
    assert here("train", *FITS, *words, "dir=r") == 0
    assert json.loads(Path("r/classes.json").read_text()) == {"0": "cat", "1": "dog"}
    capfd.readouterr()
    assert here("data", "arrays", *words[:3]) == 0
    out = capfd.readouterr().out
    assert "d = 3, classes labels, 2 classes" in out
    assert "y=cat" in out
    assert "y=dog" in out
    problem = load(path=file, target="kind", test_fraction=0.25)
    assert [len(y) for _, y in problem.data.values()] == [30, 10]
    assert problem.classes == ["cat", "dog"]
    for x, y in problem.data.values():
        assert ((x[:, 0] > 0).long() == y).all()


@pytest.mark.parametrize(("target", "dropped"), [("kind", "score"), ("score,a", "kind")])
def test_a_parquet_table_is_the_csv_s(target: str, dropped: str) -> None:
    table().drop(columns=dropped).to_csv("t.csv", index=False)
    pd.read_csv("t.csv").to_parquet("t.parquet")
    one, other = (load(path=f, target=target, test_fraction=0.5) for f in ("t.csv", "t.parquet"))
    assert one.classes == other.classes
    for split in ("train", "test"):
        for x, y in zip(one.data[split], other.data[split], strict=True):
            torch.testing.assert_close(x, y)


def test_several_targets_are_a_list_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Where they are one text, a comma asks for several runs."""
    table().drop(columns="kind").assign(label=np.arange(40) % 2 * 1.0).to_csv("t.csv", index=False)
    words = [*FITS, "dataset.path=t.csv", "dataset.test_fraction=0.5", "loss=squared"]
    assert here("train", *words, "dataset.target=[score,a]", "dir=two") == 0
    two = mfrun.load("two")
    assert isinstance(two, mfrun.Run)
    assert two.predict(np.zeros((5, 3))).yhat.shape == (1, 5, 2)
    assert "targets of a regression" not in capsys.readouterr().err
    assert here("train", *words, "dataset.target={a: 3}", "dir=no") == 2
    assert "names a column, or several, [A,B]" in capsys.readouterr().err
    assert here("train", *words, "dataset.target=label", "dir=one") == 0
    assert "dataset.task=auto: labels 0, 1 are floats, and so targets of a regression" in capsys.readouterr().err


def test_arrays_are_named_as_the_file_has_them() -> None:
    x, y = np.zeros((40, 2)), np.arange(40) % 2
    for name, arrays, said in (
        ("no labels", {"x": x}, "the file has x and no y"),
        ("two lengths", {"x": x, "y": y[1:]}, "x has 40 samples, y 39"),
        ("no number", {"x": x * np.nan, "y": y}, "x holds NaN or infinity"),
    ):
        np.savez(f"{name}.npz", **arrays)
        with pytest.raises(ConfigError) as error:
            load(path=f"{name}.npz", test_fraction=0.5)
        assert said in str(error.value)


def test_several_targets_of_a_table() -> None:
    table().drop(columns="kind").to_csv("t.csv", index=False)
    problem = load(path="t.csv", target="score, c", test_fraction=0.5)
    assert (problem.task, problem.n_out, problem.d) == (Task.REGRESSION, 2, 2)


@pytest.mark.parametrize(
    ("labels", "task", "classes"),
    [
        ([0, 5, 1000, 5], Task.CLASSES, [0, 5, 1000]),
        ([-3, 7, -3, 7], Task.CLASSES, [-3, 7]),
        (["b", "a", "c", "a"], Task.CLASSES, ["a", "b", "c"]),
        ([-1.0, 1.0, 1.0, -1.0], Task.SIGN, None),
        ([-1, 1, 1, -1], Task.SIGN, None),
        ([0.5, 1.0, 2.0, 3.0], Task.REGRESSION, None),
        ([True, False, True, False], Task.CLASSES, [0, 1]),
    ],
)
def test_labels_as_they_come(labels: list[object], task: Task, classes: list[object] | None) -> None:
    x = np.arange(8.0).reshape(4, 2)
    np.savez("a.npz", x_train=x, y_train=labels, x_test=x, y_test=labels)
    problem = load(path="a.npz")
    assert (problem.task, problem.classes) == (task, classes)
    _, y = problem.data["train"]
    if classes is not None:
        assert problem.n_out == len(classes)
        assert [classes[int(k)] for k in y] == labels
    else:
        assert y[:, 0].tolist() == labels


def test_a_test_set_is_drawn_once_and_is_apart() -> None:
    x, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
    np.savez("a.npz", x=x, y=y)
    first, again = (load(path="a.npz", test_fraction=0.3).data for _ in range(2))
    rows = {split: set(first[split][0][:, 0].tolist()) for split in first}
    assert (len(rows["train"]), len(rows["test"])) == (14, 6)
    assert not rows["train"] & rows["test"]
    assert all(torch.equal(first[s][0], again[s][0]) for s in first)


def test_standardized_inputs_train_and_predict() -> None:
    """Mean 0 and deviation 1 over the training set, the same shift for the test set, and for inputs of one's own."""
    frame = table().drop(columns="kind")
    frame["same"] = 3.0
    frame.to_csv("t.csv", index=False)
    problem = load(path="t.csv", target="score", test_fraction=0.25, standardize=True)
    x = problem.data["train"][0]
    torch.testing.assert_close(x.mean(0), torch.zeros(4, dtype=x.dtype), atol=1e-12, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.tensor([1.0, 1, 1, 0], dtype=x.dtype))
    raw = load(path="t.csv", target="score", test_fraction=0.25)
    for split in ("train", "test"):
        torch.testing.assert_close(problem.inputs(raw.data[split][0]), problem.data[split][0])
    words = ["dataset.path=t.csv", "dataset.target=score", "dataset.test_fraction=0.25", "dataset.standardize=true"]
    assert here("train", *FITS, *words, "loss=squared", "dir=r") == 0
    run = mfrun.load("r")
    assert isinstance(run, mfrun.Run)
    yhat = run.predict(raw.data["test"][0].numpy()).yhat[0, :, 0]
    loss = float(((yhat - raw.data["test"][1][:, 0].numpy()) ** 2).mean())
    assert run.frame["test_loss"].iloc[-1] == pytest.approx(loss, rel=1e-4)


def test_inputs_lose_their_offset_before_they_are_rounded() -> None:
    """Times of a clock, of which float32 has no minutes: in training and in what is predicted afterwards."""
    rng = np.random.default_rng(0)
    x = np.stack([1.7e9 + rng.uniform(0, 600, 200), rng.normal(size=200)], 1)
    np.savez("a.npz", x=x, y=(x[:, 0] - 1.7e9) / 600 + x[:, 1])
    words = ["dataset.path=a.npz", "dataset.test_fraction=0.5", "dataset.standardize=true"]
    assert here("train", *FITS, *words, "loss=squared", "dir=r") == 0
    run = mfrun.load("r")
    assert isinstance(run, mfrun.Run)
    raw = load(path="a.npz", test_fraction=0.5).data["test"]
    yhat = run.predict(raw[0].numpy()).yhat[0, :, 0]
    loss = float(((yhat - raw[1][:, 0].numpy()) ** 2).mean())
    assert run.frame["test_loss"].iloc[-1] == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("name", ["a.npz", "a.csv"])
def test_a_file_that_one_may_not_read(name: str) -> None:
    Path(name).touch()
    Path(name).chmod(0)
    # As one who is not its owner: the owner of a machine may read everything.
    before = os.geteuid()
    os.seteuid(65534 if before == 0 else before)
    try:
        with pytest.raises(ConfigError, match=rf"^path={name}: cannot be read \(Permission denied\)$"):
            load(path=name, target="b" if name == "a.csv" else "")
    finally:
        os.seteuid(before)


def test_arrays_of_pixels_are_standardized_too() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (30, 4), dtype=np.uint8)
    np.savez("a.npz", x=x, y=np.arange(30) % 2)
    problem = load(path="a.npz", test_fraction=0.5, standardize=True)
    torch.testing.assert_close(problem.data["train"][0].std(0, correction=0), torch.ones(4, dtype=torch.float64))


REFUSED = {
    "no target": ({"path": "t.csv"}, "target='': names the labels' column, one of a, b, c, kind, score"),
    "another target": ({"path": "t.csv", "target": "label"}, "target=label: names the labels' column, one of a, b,"),
    "texts": ({"path": "t.csv", "target": "score"}, "path=t.csv: column kind holds no numbers; inputs are numbers"),
    "no test set": ({"path": "n.csv", "target": "score"}, "path=n.csv: the file has no x_test, y_test; dataset.test_f"),
    "empty cells": ({"path": "e.csv", "target": "score", "test_fraction": 0.5}, "path=e.csv: column b has empty cells"),
    "a target of arrays": ({"path": "a.npz", "target": "y"}, "target=y: names a column of a .csv or .parquet"),
    "two test sets": ({"path": "a.npz", "test_fraction": 0.5}, "test_fraction=0.5: the file has a test set of its own"),
    "nothing left": ({"path": "n.csv", "target": "score", "test_fraction": 0.001}, "leaves an empty set of 40 samples"),
    "a share": ({"path": "n.csv", "test_fraction": 1.0}, "test_fraction=1.0: a fraction of the samples lies in"),
    "not a table": ({"path": "x.parquet", "target": "y"}, "path=x.parquet: "),
}


@pytest.mark.parametrize(("keys", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(keys: dict[str, object], message: str) -> None:
    table().to_csv("t.csv", index=False)
    numbers = table().drop(columns="kind")
    numbers.to_csv("n.csv", index=False)
    numbers.loc[3, "b"] = np.nan
    numbers.to_csv("e.csv", index=False)
    Path("x.parquet").write_text("no table")
    x, y = np.zeros((4, 2)), np.arange(4) % 2
    np.savez("a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(ConfigError) as error:
        load(**keys)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "rows",
    ["0,1,2,0\n1,3,4,1\n2,5,6,0", "9,1,2,0\n7,3,4,1", "8,9,1,2,0\n8,7,3,4,1", "1,2,0,\n3,4,1,", '"a\nb",1,2,0'],
)
@pytest.mark.parametrize(("file", "sep"), [("t.csv", ","), ("t.tsv", "\t")])
def test_a_row_that_is_longer_than_the_header_is_refused(rows: str, file: str, sep: str) -> None:
    """Its first cells would be an index, and a column of data be lost."""
    Path(file).write_text(f"\n a,b,y\n \n{rows}\n".replace(",", sep))
    with pytest.raises(ConfigError) as error:
        load(path=file, target="y", test_fraction=0.5)
    said = "has rows with more cells than its first line has names; a table has a name for each column"
    assert str(error.value) == f"path={file}: {said}"


def test_names_of_columns_are_without_blanks_or_numbers() -> None:
    rows = "\n".join(f"{k}, {k % 2}, {k / 2}" for k in range(10))
    Path("blanks.csv").write_text(f"a, b, y\n{rows}\n")
    Path("numbers.csv").write_text(f"0,1,3\n{rows}\n")
    x = [load(path="blanks.csv", target="y", test_fraction=0.5).data["train"][0]]
    x += [load(path="numbers.csv", target=t, test_fraction=0.5).data["train"][0] for t in (3, [3], "3")]
    assert all(torch.equal(x[0], other) for other in x)
    assert load(path="numbers.csv", target=0, task="regression", test_fraction=0.5).n_out == 1
    Path("twice.csv").write_text(f"a, a,y\n{rows}\n")
    for keys, said in (
        ({"path": "twice.csv", "target": "y"}, "path=twice.csv: has two columns named a; names differ in more than"),
        ({"path": "numbers.csv", "target": True}, "target=true: names a column, or several, [A,B]"),
        ({"path": "blanks.csv", "target": 0}, "target=0: names the labels' column, one of a, b, y"),
    ):
        with pytest.raises(ConfigError) as error:
            load(**keys, test_fraction=0.5)
        assert str(error.value).startswith(said)


@pytest.mark.parametrize("kind", ["int32", "uint32", "int64", "uint64"])
def test_wide_integers_keep_their_digits_until_they_are_standardized(kind: str) -> None:
    x = (1_700_000_000 + np.arange(100, dtype=kind)).reshape(100, 1)
    np.savez("a.npz", x_train=x, y_train=np.arange(100) % 2, x_test=np.float32(x[:8]), y_test=np.arange(8) % 2)
    arrays = Arrays(path="a.npz", standardize=True)
    problem = arrays.load(torch.float32, torch.device("cpu"))
    assert isinstance(problem, FiniteProblem)
    expected = (torch.arange(100.0) - 49.5) / np.arange(100).std()
    torch.testing.assert_close(problem.data["train"][0][:, 0], expected)
    exact = load(path="a.npz").data["train"][0]
    assert torch.equal(exact[:, 0].double(), 1.7e9 + torch.arange(100, dtype=torch.float64))


@pytest.mark.parametrize(("name", "standardize"), [("x_train", False), ("x_test", False), ("y_test", True)])
def test_numbers_that_the_run_s_type_does_not_hold_are_refused(name: str, standardize: bool) -> None:
    arrays = {n: np.arange(8.0).reshape(4, 2) / 3 for n in ("x_train", "y_train", "x_test", "y_test")}
    arrays[name][1, 0] = 1e39
    np.savez("a.npz", **arrays)  # type: ignore[arg-type]
    said = f"path=a.npz: {name} holds NaN or infinity in dtype=float32, whose numbers end at 3.4e\\+38"
    with pytest.raises(ConfigError, match=said):
        Arrays(path="a.npz", standardize=standardize).load(torch.float32, torch.device("cpu"))
    load(path="a.npz", standardize=standardize)


def test_large_numbers_that_are_standardized_fit() -> None:
    x = np.arange(8.0).reshape(4, 2) * 1e39
    np.savez("a.npz", x_train=x, y_train=[0, 1, 0, 1], x_test=x, y_test=[0, 1, 0, 1])
    problem = Arrays(path="a.npz", standardize=True).load(torch.float32, torch.device("cpu"))
    assert isinstance(problem, FiniteProblem)
    torch.testing.assert_close(problem.data["train"][0].std(0, correction=0), torch.ones(2))


def damaged(file: str, at: tuple[int, int], value: int) -> None:
    """An .npz with one number of two bytes changed in the local and in the central header of its first member."""
    np.savez(file, x=np.zeros((4, 2)), y=np.arange(4) % 2)
    raw = bytearray(Path(file).read_bytes())
    for start, offset in zip((raw.index(b"PK\3\4"), raw.index(b"PK\1\2")), at, strict=True):
        raw[start + offset : start + offset + 2] = value.to_bytes(2, "little")
    Path(file).write_bytes(raw)


def test_a_bad_npz_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.zeros((4, 2)), np.arange(4) % 2
    np.savez("x.npz", x=np.array(1.0), y=y)
    np.savez("y.npz", x_train=x, y_train=np.array(1))
    damaged("encrypted.npz", (6, 8), 1)
    damaged("packed.npz", (8, 10), 77)
    np.savez("bytes.npz", x=x)
    np.savez("more.npz", x=x, y=y)
    for file, member in (("bytes", "y"), ("bytes", "note.txt"), ("more", "note.txt")):
        with zipfile.ZipFile(f"{file}.npz", "a") as archive:
            archive.writestr(member, "0, 1, 0, 1")
    load(path="more.npz", test_fraction=0.5)
    for file, said in (
        ("x", "x has shape (); its first axis is the samples"),
        ("y", "y_train has shape (); its first axis is the samples"),
        ("encrypted", "cannot be read as .npz (File 'x.npy' is encrypted"),
        ("packed", "cannot be read as .npz (That compression method is not supported)"),
        ("bytes", "y is no array (.npy); numpy.savez writes arrays"),
    ):
        with pytest.raises(ConfigError) as error:
            load(path=f"{file}.npz", test_fraction=0.5)
        assert str(error.value).startswith(f"path={file}.npz: {said}")
        assert "\n" not in str(error.value)

    def silent(*_: object, **__: object) -> None:
        raise EOFError

    monkeypatch.setattr(np, "load", silent)
    monkeypatch.setattr(pd, "read_csv", silent)
    Path("t.csv").write_text("a,y\n1,2\n")
    for file, kind in (("more.npz", ".npz"), ("t.csv", "csv")):
        with pytest.raises(ConfigError) as error:
            load(path=file, target="" if kind == ".npz" else "y", test_fraction=0.5)
        assert str(error.value) == f"path={file}: cannot be read as {kind} (EOFError)"


def test_a_loss_that_does_not_fit_names_the_key_of_the_labels(
    capfd: pytest.CaptureFixture[str],
) -> None:
    table().drop(columns="kind").to_csv("t.csv", index=False)
    words = ["dataset.path=t.csv", "dataset.target=score", "dataset.test_fraction=0.5", "loss=cross_entropy"]
    assert here("train", *FITS, *words, "dir=r") == 2
    assert "does not fit arrays's regression labels (dataset.task); it takes classes" in capfd.readouterr().err


def test_numbered_classes_are_no_other_run(capfd: pytest.CaptureFixture[str]) -> None:
    """Labels 0, 5, 1000 train as 0, 1, 2 do."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 3)), np.arange(30) % 3
    for name, labels in {"a": y, "b": np.array([0, 5, 1000])[y]}.items():
        np.savez(f"{name}.npz", x_train=x, y_train=labels, x_test=x, y_test=labels)
        words = [*TINY[:1], *FITS[1:], f"dataset.path={name}.npz", "loss=cross_entropy", f"dir={name}"]
        assert here("train", *words) == 0
    assert curves("a") == curves("b")
    assert not Path("a/classes.json").exists()


@pytest.mark.parametrize("steps", ["20", "23"])
def test_a_run_goes_on_with_its_data_wherever_they_lie(steps: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A file may be moved; another in its place, or at the new one, is refused, and the folder stays what it was.

    The longer run evaluates at step 20, and not at step 23.
    """
    frame = table().drop(columns="kind")
    frame.to_csv("t.csv", index=False)
    words = [*FITS, "dataset.path=t.csv", "dataset.target=score", "dataset.test_fraction=0.5", "alpha=1e-5"]
    assert here("train", *words, "steps=47", "dir=whole") == 0
    assert here("train", *words, f"steps={steps}", "dir=r") == 0
    before = {file: file.read_bytes() for file in Path("r").rglob("*") if file.is_file()}
    Path("t.csv").rename("moved.csv")
    (frame + 1).to_csv("t.csv", index=False)
    capfd.readouterr()
    for path in ("t.csv", "other.csv"):
        (frame + 1).to_csv(path, index=False)
        assert here("train", "dir=r", "resume=true", "steps=47", f"dataset.path={path}") == 2
        said = f"dataset.path={path}: not the data that the run was started on: train_loss at step {steps} is "
        assert said in capfd.readouterr().err
        assert {file: file.read_bytes() for file in Path("r").rglob("*") if file.is_file()} == before
    assert here("train", "dir=r", "resume=true", "steps=47", "dataset.path=moved.csv") == 0
    assert curves("r") == curves("whole")


def test_a_sweep_grows_after_its_data_have_moved(capfd: pytest.CaptureFixture[str]) -> None:
    """Its finished runs are found with the others, and their data where they lie now."""
    frame = table().drop(columns="kind")
    frame.to_csv("t.csv", index=False)
    words = [*FITS[:1], *FITS[2:], "dataset.target=score", "dataset.test_fraction=0.5", "alpha=1e-5"]
    assert here("sweep", *words, "dataset.path=t.csv", "widths=[3,4]", "dir=s") == 0
    Path("t.csv").rename("moved.csv")
    assert here("sweep", "dir=s", "resume=true", "widths=[3,4,5]", "dataset.path=moved.csv") == 0
    sweep = mfrun.load("s")
    assert [run.width for run in sweep] == [3, 4, 5]
    for run in sweep:
        run.predict(np.zeros((2, 3)))
    capfd.readouterr()
    assert here("compare", "s") == 0
    assert "moved" not in "".join(capfd.readouterr())
    # A width that is added must not see other data than those that are there.
    for path in ("moved.csv", "other.csv"):
        (frame + 1).to_csv(path, index=False)
        assert here("sweep", "dir=s", "resume=true", "widths=[3,4,5,6]", f"dataset.path={path}") == 2
        assert f"dataset.path={path}: not the data that the run was started on" in capfd.readouterr().err


OTHER_SPLITS = """
from dataclasses import dataclass
import torch
from mfrun.problems import FiniteProblem, Task

class Shifted(FiniteProblem):
    splits = ("source", "target")

@dataclass
class Two:
    def load(self, dtype, device):
        x = torch.randn((60, 3), generator=torch.Generator().manual_seed(0))
        data = {"source": (x, x[:, :1].sign()), "target": (x + 1, x[:, :1].sign())}
        return Shifted(data | {"train": data["source"]}, Task.SIGN, 1, dtype, device)
"""


def test_splits_of_one_s_own_are_drawn(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    Path("other_splits.py").write_text(OTHER_SPLITS)
    monkeypatch.syspath_prepend(Path.cwd())
    words = [FITS[0], *FITS[2:-1], "dataset.name=other_splits:Two", "~dataset.d", "~dataset.delta", "widths=[3,5,9]"]
    assert here("sweep", *words, "dir=s") == 0
    panels = [ax.get_title() for ax in mfrun.plot("s").axes]
    assert panels == [f"{split} average of {name}" for split in ("Source", "Target") for name in ("loss", "error")]
    capfd.readouterr()
    assert here("compare", "s") == 0
    assert "target_loss: gap to n = 9" in capfd.readouterr().out


LOADED = """
from dataclasses import dataclass
import random
import numpy as np
import torch
from mfrun.problems import FiniteProblem, Task

@dataclass
class Drawn:
    how: str = "numpy"

    def load(self, dtype, device):
        draw = {
            "numpy": lambda: np.random.normal(size=(40, 3)),
            "python": lambda: [[random.gauss() for _ in range(3)] for _ in range(40)],
            "torch": lambda: torch.randn(40, 3),
            "unseeded": lambda: np.random.default_rng().normal(size=(40, 3)),
        }[self.how]
        data = {split: (x, x[:, :1].sign()) for split in ("train", "test") for x in [torch.as_tensor(draw())]}
        return FiniteProblem(data, Task.SIGN, 1, dtype, device)
"""


@pytest.mark.parametrize("how", ["numpy", "python", "torch", "unseeded"])
def test_data_that_are_drawn_as_they_are_loaded(
    how: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """They are the same in every process, and leave the caller's own chance alone, or the run does not go on."""
    Path("loaded.py").write_text(LOADED)
    monkeypatch.syspath_prepend(Path.cwd())
    words = [*FITS[:-1], "dataset.name=loaded:Drawn", f"+dataset.how={how}", "~dataset.d", "~dataset.delta"]
    np.random.seed(1)  # noqa: NPY002
    after = np.random.get_state()[1].tolist()  # noqa: NPY002
    assert here("train", *words, "dir=r") == 0
    assert np.random.get_state()[1].tolist() == after  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(2)
    random.seed(2)
    monkeypatch.setenv("MFRUN_IMPORT", "loaded:Drawn")
    capfd.readouterr()
    code = here("train", "dir=r", "resume=true", "steps=40")
    if how == "unseeded":
        assert code == 2
        said = "dataset.name=loaded:Drawn: not the data that the run was started on: train_loss at step 20 is "
        assert said in capfd.readouterr().err
        return
    assert code == 0
    assert here("train", *words, "steps=40", "dir=whole") == 0
    assert curves("r") == curves("whole")


def test_a_sweep_over_files_has_a_folder_for_each(tmp_path: Path) -> None:
    """The folder of a run lies in the sweep's, whatever slashes a swept value has."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        table().drop(columns="kind").to_csv(tmp_path / name / "t.csv", index=False)
    files = [f"{tmp_path}/{name}/t.csv" for name in ("a", "b")]
    words = [*FITS[:1], *FITS[2:], "dataset.target=score", "dataset.test_fraction=0.5", "alpha=1e-5"]
    assert here("sweep", *words, f"dataset.path={','.join(files)}", "widths=[3]", "dir=s") == 0
    sweep = mfrun.load("s")
    assert [run.config["dataset"]["path"] for run in sweep] == files
    assert {Path(run.path).resolve().parent for run in sweep} == {Path("s").resolve()}
    assert here("sweep", "dir=s", "resume=true", "widths=[3,4]") == 0
    assert len(mfrun.load("s").runs) == 4
