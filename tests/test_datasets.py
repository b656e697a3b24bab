"""Data sets read from files in their real formats, and every file that is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from formats import images, write_arrays, write_cifar10, write_idx, write_mnist
from torchvision import datasets as tv

from mfrun.config import Config
from mfrun.dynamics.experiment import load_problem
from mfrun.errors import ConfigError, UserError
from mfrun.problems.problem import FiniteProblem
from mfrun.problems.tasks import Task


def load(dtype: str = "float32", **node: object) -> FiniteProblem:
    problem = load_problem(Config(dataset=node, dtype=dtype, device="cpu"))
    assert isinstance(problem, FiniteProblem)
    return problem


def scaled(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(len(pixels), -1).astype(np.float64) * (2 / 255) - 1


def everything(problem: FiniteProblem, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    return problem.gather(torch.arange(len(problem.data[split][0])), split)


# -- images --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
@pytest.mark.parametrize(("dtype", "accuracy"), [("float32", 1e-6), ("float64", 1e-14)])
def test_idx_files(tmp_path: Path, name: str, folder: str, dtype: str, accuracy: float) -> None:
    written = write_mnist(tmp_path, folder)
    problem = load(dtype, name=name, root=str(tmp_path), download=False)
    assert (problem.d, problem.n_out, problem.task, problem.image) == (784, 10, Task.CLASSES, (28, 28, 1))
    for split, (pixels, labels) in written.items():
        assert problem.data[split][0].dtype == torch.uint8  # a byte a pixel in memory
        x, y = everything(problem, split)
        assert x.dtype == getattr(torch, dtype)
        np.testing.assert_allclose(x.numpy(), scaled(pixels), rtol=0, atol=accuracy)
        assert (x.min().item(), x.max().item()) == (-1.0, pytest.approx(1.0, abs=accuracy))
        assert y.tolist() == labels.tolist()


def test_cifar10_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, sums = write_cifar10(tmp_path)
    monkeypatch.setattr(tv.CIFAR10, "train_list", [[n, sums[n]] for n, _ in tv.CIFAR10.train_list])
    monkeypatch.setattr(tv.CIFAR10, "test_list", [[n, sums[n]] for n, _ in tv.CIFAR10.test_list])
    monkeypatch.setattr(tv.CIFAR10, "meta", {**tv.CIFAR10.meta, "md5": sums["batches.meta"]})
    problem = load(name="cifar10", root=str(tmp_path), download=False)
    assert (problem.d, problem.n_out, problem.image) == (3072, 10, (32, 32, 3))
    for split, (pixels, labels) in written.items():
        x, y = everything(problem, split)
        # torchvision moves the colours last; which pixel is which input does not matter to a dense layer, the set does.
        moved = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        np.testing.assert_allclose(x.numpy(), scaled(moved), rtol=0, atol=1e-6)
        assert y.tolist() == labels.tolist()


def test_cifar10_with_other_content_than_the_published_one(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    with pytest.raises(UserError, match=r"dataset.root=.*no readable CIFAR10.*corrupted"):
        load(name="cifar10", root=str(tmp_path), download=False)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_missing_root(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"dataset.root=.*nowhere.*dataset.download=true fetches") as caught:
        load(name=name, root=str(tmp_path / "nowhere"), download=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "nowhere").exists()


def cut_images(raw: Path) -> None:
    file = raw / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])


def cut_header(raw: Path) -> None:
    (raw / "t10k-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03\0\0")


def wrong_magic(raw: Path) -> None:
    file = raw / "train-images-idx3-ubyte"
    file.write_bytes(b"\x12\x34\x56\x78" + file.read_bytes()[4:])


def empty_file(raw: Path) -> None:
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"")


def missing_file(raw: Path) -> None:
    (raw / "t10k-labels-idx1-ubyte").unlink()


def folder_for_file(raw: Path) -> None:
    (raw / "train-labels-idx1-ubyte").unlink()
    (raw / "train-labels-idx1-ubyte").mkdir()


def labels_for_images(raw: Path) -> None:
    (raw / "train-images-idx3-ubyte").write_bytes((raw / "train-labels-idx1-ubyte").read_bytes())


def too_few_labels(raw: Path) -> None:
    write_idx(raw / "train-labels-idx1-ubyte", np.arange(19) % 10)


def eleventh_class(raw: Path) -> None:
    write_idx(raw / "t10k-labels-idx1-ubyte", np.full(10, 10))


def no_images(raw: Path) -> None:
    write_idx(raw / "train-images-idx3-ubyte", np.zeros((0, 28, 28)))
    write_idx(raw / "train-labels-idx1-ubyte", np.zeros(0))


def other_size(raw: Path) -> None:
    write_idx(raw / "t10k-images-idx3-ubyte", images(0, 10, (14, 14))[0])


DAMAGES = [
    cut_images, cut_header, wrong_magic, empty_file, missing_file, folder_for_file, labels_for_images, too_few_labels,
    eleventh_class, no_images, other_size,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_idx(tmp_path: Path, damage: object) -> None:
    write_mnist(tmp_path)
    load(name="mnist", root=str(tmp_path), download=False)
    damage(tmp_path / "MNIST" / "raw")  # type: ignore[operator]
    with pytest.raises(UserError, match=r"dataset.root=.*no readable MNIST files") as caught:
        load(name="mnist", root=str(tmp_path), download=False)
    assert "\n" not in str(caught.value)


# -- arrays --------------------------------------------------------------------------------------------------------


def arrays(count: int = 8, d: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2 * count, d))
    y = np.arange(2 * count) % 3
    return {"x_train": x[:count], "y_train": y[:count], "x_test": x[count:], "y_test": y[count:]}


def save(tmp_path: Path, **changes: object) -> str:
    content = {**arrays(), **changes}
    np.savez(tmp_path / "a.npz", **{k: v for k, v in content.items() if v is not None})
    return str(tmp_path / "a.npz")


def both(convert: object) -> dict[str, np.ndarray]:
    """The x of both splits, converted."""
    return {k: convert(v) for k, v in arrays().items() if k.startswith("x")}  # type: ignore[operator]


@pytest.mark.parametrize("stored", [np.float32, np.float64, np.float16, np.int32])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_keep_numbers(tmp_path: Path, stored: type, dtype: str) -> None:
    x = both(lambda v: (100 * v).astype(stored))
    problem = load(dtype, name="arrays", path=save(tmp_path, **x))
    for split in ("train", "test"):
        got, y = everything(problem, split)
        assert got.dtype == getattr(torch, dtype)
        expected = x[f"x_{split}"].astype(np.float64)
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-7 if dtype == "float32" else 1e-15)
        assert y.tolist() == arrays()[f"y_{split}"].tolist()
    assert (problem.d, problem.n_out, problem.task, problem.image) == (3, 3, Task.CLASSES, None)


def test_arrays_scale_pixels(tmp_path: Path) -> None:
    pixels = {"x_train": images(0, 8, (2, 4, 3))[0], "x_test": images(1, 8, (2, 4, 3))[0]}
    problem = load(name="arrays", path=save(tmp_path, **pixels))
    assert problem.data["train"][0].dtype == torch.uint8
    assert (problem.d, problem.image) == (24, (2, 4, 3))
    for split in ("train", "test"):
        np.testing.assert_allclose(everything(problem, split)[0].numpy(), scaled(pixels[f"x_{split}"]), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint8])
def test_classes(tmp_path: Path, dtype: type) -> None:
    y = {f"y_{s}": (np.arange(8) % 5).astype(dtype) for s in ("train", "test")}
    problem = load(name="arrays", path=save(tmp_path, **y))
    assert (problem.task, problem.n_out) == (Task.CLASSES, 5)
    assert everything(problem, "test")[1].tolist() == y["y_test"].tolist()


def test_signs(tmp_path: Path) -> None:
    y = {f"y_{s}": np.arange(8) % 2 * 2 - 1 for s in ("train", "test")}
    problem = load(name="arrays", path=save(tmp_path, **y))
    assert (problem.task, problem.n_out) == (Task.SIGN, 1)
    assert everything(problem, "train")[1].tolist() == [y["y_train"].tolist()]


@pytest.mark.parametrize("outputs", [1, 4])
def test_regression(tmp_path: Path, outputs: int) -> None:
    rng = np.random.default_rng(1)
    y = {f"y_{s}": rng.standard_normal((8, outputs)) for s in ("train", "test")}
    problem = load("float64", name="arrays", path=save(tmp_path, **y))
    assert (problem.task, problem.n_out) == (Task.REGRESSION, outputs)
    got = everything(problem, "test")[1]
    assert got.shape == (outputs, 8)
    np.testing.assert_array_equal(got.numpy(), y["y_test"].T)


def test_regression_on_a_flat_array(tmp_path: Path) -> None:
    y = {f"y_{s}": np.linspace(-1, 1, 8) for s in ("train", "test")}
    problem = load("float64", name="arrays", path=save(tmp_path, **y))
    assert (problem.task, problem.n_out) == (Task.REGRESSION, 1)
    np.testing.assert_array_equal(everything(problem, "train")[1].numpy(), y["y_train"][None])


@pytest.mark.parametrize(
    ("labels", "task", "expected"),
    [
        (np.arange(8.0) % 2 * 2 - 1, "sign", Task.SIGN),
        (np.arange(8.0) % 3, "classes", Task.CLASSES),
        (np.arange(8) % 3, "regression", Task.REGRESSION),
        (np.arange(8) % 2 * 2 - 1, "regression", Task.REGRESSION),
        (np.arange(8) % 2 == 0, "classes", Task.CLASSES),
    ],
)
def test_task_can_be_told(tmp_path: Path, labels: np.ndarray, task: str, expected: Task) -> None:
    problem = load(name="arrays", path=save(tmp_path, y_train=labels, y_test=labels), task=task)
    assert problem.task is expected
    assert everything(problem, "train")[1].reshape(-1).tolist() == labels.astype(float).tolist()


with_nan = np.zeros((8, 3))
with_nan[3, 1] = np.nan
with_inf = np.zeros((8, 3))
with_inf[0, 0] = np.inf

REFUSED = [
    ("missing key", {"y_test": None}, "the file has no y_test"),
    ("missing keys", {"x_train": None, "y_train": None}, "the file has no x_train, y_train"),
    ("NaN", {"x_train": with_nan}, "x_train holds NaN"),
    ("infinity", {"x_test": with_inf}, "x_test holds NaN or infinity"),
    ("NaN label", {"y_train": with_nan[:, 1], "y_test": np.zeros(8)}, "y_train holds NaN"),
    ("objects", {"x_train": np.array([[1, "a"]] * 8, dtype=object)}, "cannot be read"),
    ("text", {"x_train": np.array([["a", "b", "c"]] * 8)}, "x_train has dtype <U1"),
    ("complex", {"x_test": np.ones((8, 3), complex)}, "x_test has dtype complex128"),
    ("one text", {"y_train": np.array(["cat"] * 8)}, "y_train holds a single class"),
    ("texts and numbers", {"y_train": np.array(["cat", "dog"] * 4)}, "y_test holds label ., which y_train has not"),
    ("complex labels", {"y_train": np.ones(8, complex)}, "y_train has dtype complex128; labels are numbers or texts"),
    ("flat x", {"x_train": np.zeros(8)}, r"x_train has shape \(8,\)"),
    ("no samples", {"x_train": np.zeros((0, 3))}, r"x_train has shape \(0, 3\)"),
    ("no labels", {"y_train": np.zeros(0, int)}, "y_train is empty"),
    ("scalar label", {"y_train": np.array(1)}, "y_train is empty"),
    ("fewer labels", {"y_train": np.arange(7) % 3}, "x_train has 8 samples, y_train 7"),
    ("other dimension", {"x_test": np.zeros((8, 4))}, "x_train has 3 numbers a sample, x_test 4"),
    ("pixels and floats", {"x_test": np.zeros((8, 3), np.uint8)}, "x_train is float64, x_test uint8"),
    ("unseen class", {"y_test": np.arange(8)}, "y_test holds label 3, which y_train has not"),
    ("one class", {"y_train": np.zeros(8, int), "y_test": np.zeros(8, int)}, "single class"),
    ("one-hot classes", {"y_train": np.eye(8, dtype=int)}, r"y_train has shape \(8, 8\)"),
    ("other outputs", {"y_train": np.zeros((8, 2)), "y_test": np.zeros((8, 3))}, "y_train has 2 numbers a sample"),
]


@pytest.mark.parametrize(("changes", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_refused_arrays(tmp_path: Path, changes: dict[str, np.ndarray], message: str) -> None:
    path = save(tmp_path, **changes)
    with pytest.raises(ConfigError, match=f"dataset.path=.*a.npz: .*{message}") as caught:
        load(name="arrays", path=path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "task", "message"),
    [
        (np.arange(8) % 3, "sign", "other than -1 and [+]1"),
        (np.linspace(0, 1, 8), "classes", "not whole numbers; dataset.task=regression takes them"),
        (np.zeros((8, 2)), "sign", "one number a sample"),
    ],
)
def test_labels_that_do_not_fit_the_task(tmp_path: Path, labels: np.ndarray, task: str, message: str) -> None:
    path = save(tmp_path, y_train=labels, y_test=labels)
    with pytest.raises(ConfigError, match=message):
        load(name="arrays", path=path, task=task)


def test_signs_need_both_in_the_test_set_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="y_test holds labels other than"):
        load(name="arrays", path=save(tmp_path, y_train=np.arange(8) % 2 * 2 - 1))


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").write_bytes(b"")
    np.save(tmp_path / "one.npy", np.zeros(3))
    write_arrays(tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "flipped.npz").write_bytes(whole[:150] + bytes(255 - b for b in whole[150:200]) + whole[200:])
    for name, message in {
        "nothing": "no such file",
        ".": "is a folder",
        "text": "not an .npz",
        "empty": "not an .npz",
        "one.npy": "not an .npz",
        "cut.npz": "not an .npz",
        "flipped.npz": "cannot be read",
    }.items():
        with pytest.raises(ConfigError, match=f"^dataset.path=.*{message}") as caught:
            load(name="arrays", path=str(tmp_path / name))
        assert "\n" not in str(caught.value)
