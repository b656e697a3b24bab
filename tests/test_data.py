"""``mfrun data`` on the plain data sets: what it says of them, and what it finds wrong."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
from formats import write_arrays, write_cifar10, write_mnist
from torchvision import datasets as tv

from mfrun import cli
from mfrun.config import conf_dir
from mfrun.problems import datasets


def data(capfd: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[str], list[str]]:
    """Exit code, lines of stdout and lines of stderr of ``mfrun data ARGV``."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(["data", *argv])
    out, err = capfd.readouterr()
    return int(stopped.value.code or 0), out.splitlines(), err.splitlines()


def pack(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay the packed files beside the unpacked ones, as a download does, and have their sums published."""
    sums = []
    for name, _ in tv.MNIST.resources:
        (raw / name).write_bytes(gzip.compress((raw / name).with_suffix("").read_bytes()))
        sums.append((name, hashlib.md5((raw / name).read_bytes()).hexdigest()))
    monkeypatch.setattr(tv.MNIST, "resources", sums)


MNIST = ("mnist", "dataset.root=.", "dataset.download=false")


def test_a_part_of_mnist_is_not_mnist(capfd: pytest.CaptureFixture[str]) -> None:
    write_mnist(Path())
    code, out, err = data(capfd, *MNIST)
    assert code == 2
    assert out[0] == "d = 784 (28 x 28 x 1), classes labels, 10 classes"
    assert out[1].split() == ["split", "samples", *(f"y={i}" for i in range(10))]
    assert out[2].split() == ["train", "20", *"2222222222"]
    assert out[3].split() == ["test", "10", *"1111111111"]
    wrong = "dataset.root=.: 20 + 10 images of (28, 28, 1), but MNIST has 60000 + 10000 images of (28, 28, 1)"
    assert err == [f"mfrun: {wrong}"]


def test_mnist_and_its_checksums(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(Path())
    monkeypatch.setattr(datasets.MNIST, "counts", (20, 10))
    said = "counts and sizes are those of the published set; "
    code, out, err = data(capfd, *MNIST)
    assert (code, err) == (0, [])
    assert out[-1] == said + "no archives lie beside the files, to hold them to the published md5"
    said += "{} of 4 files agree with archives of the published md5"
    raw = Path("MNIST/raw")
    pack(raw, monkeypatch)
    assert data(capfd, *MNIST)[1][-1] == said.format(4)
    (raw / "t10k-labels-idx1-ubyte.gz").unlink()
    assert data(capfd, *MNIST)[1][-1] == said.format(3)

    pixels = bytearray((raw / "train-images-idx3-ubyte").read_bytes())
    pixels[-1] ^= 1
    (raw / "train-images-idx3-ubyte").write_bytes(pixels)
    code, _, err = data(capfd, *MNIST)
    assert code == 2
    assert err == [
        "mfrun: MNIST/raw/train-images-idx3-ubyte.gz: not the published file, or not that beside it; "
        "remove both to fetch them again"
    ]


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_damaged_archive(damage: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(Path())
    monkeypatch.setattr(datasets.MNIST, "counts", (20, 10))
    pack(Path("MNIST/raw"), monkeypatch)
    file = Path("MNIST/raw/t10k-images-idx3-ubyte.gz")
    file.write_bytes(file.read_bytes()[:-20] if damage == "cut" else gzip.compress(b"other"))
    code, _, err = data(capfd, *MNIST)
    assert (code, len(err)) == (2, 1)
    assert "t10k-images-idx3-ubyte.gz: not the published file" in err[0]


def test_cifar10(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, sums = write_cifar10(Path())
    monkeypatch.setattr(tv.CIFAR10, "train_list", [[n, sums[n]] for n, _ in tv.CIFAR10.train_list])
    monkeypatch.setattr(tv.CIFAR10, "test_list", [[n, sums[n]] for n, _ in tv.CIFAR10.test_list])
    monkeypatch.setattr(tv.CIFAR10, "meta", {**tv.CIFAR10.meta, "md5": sums["batches.meta"]})
    monkeypatch.setattr(datasets.CIFAR10, "counts", (20, 4))
    code, out, err = data(capfd, "cifar10", "dataset.root=.", "dataset.download=false")
    assert (code, err) == (0, [])
    assert out[0] == "d = 3072 (32 x 32 x 3), classes labels, 10 classes"
    assert out[-1] == "counts and sizes are those of the published set; every file has the published md5"


def test_what_the_published_sets_hold() -> None:
    """As their authors describe them."""
    assert (datasets.MNIST.counts, datasets.MNIST.image) == ((60000, 10000), (28, 28, 1))
    assert (datasets.FashionMNIST.counts, datasets.FashionMNIST.image) == ((60000, 10000), (28, 28, 1))
    assert (datasets.CIFAR10.counts, datasets.CIFAR10.image) == ((50000, 10000), (32, 32, 3))


@pytest.mark.parametrize(
    ("labels", "title", "columns", "train"),
    [
        ("classes", "d = 3, classes labels, 3 classes", ["y=0", "y=1", "y=2"], ["7", "7", "6"]),
        ("sign", "d = 3, sign labels, 1 output", ["y=-1", "y=+1"], ["10", "10"]),
    ],
)
def test_arrays(
    labels: str, title: str, columns: list[str], train: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    write_arrays(Path("a.npz"), labels=labels)
    code, out, err = data(capfd, "arrays", "dataset.path=a.npz")
    assert (code, err, out[0]) == (0, [], title)
    assert out[1].split() == ["split", "samples", *columns]
    assert out[2].split() == ["train", "20", *train]
    assert len(out) == 4


def test_regression(capfd: pytest.CaptureFixture[str]) -> None:
    y = np.array([1.0, 2.0, 4.0])
    np.savez("a.npz", x_train=np.eye(3), y_train=y, x_test=np.eye(3), y_test=-y)
    _, out, _ = data(capfd, "arrays", "dataset.path=a.npz", "dtype=float64")
    assert out[0] == "d = 3, regression labels, 1 output"
    assert out[1].split() == ["split", "samples", "mean", "std", "min", "max"]
    assert out[2].split() == ["train", "3", "2.333", "1.528", "1", "4"]
    assert out[3].split() == ["test", "3", "-2.333", "1.528", "-4", "-1"]


def test_many_classes(capfd: pytest.CaptureFixture[str]) -> None:
    y = np.concatenate([np.arange(11), [10, 10]])
    np.savez("a.npz", x_train=np.ones((13, 2)), y_train=y, x_test=np.ones((13, 2)), y_test=y)
    _, out, _ = data(capfd, "arrays", "dataset.path=a.npz")
    assert out[1].split() == ["split", "samples", "smallest", "class", "largest", "class"]
    assert out[2].split() == ["train", "13", "1", "3"]


def test_samples_without_end(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = data(capfd, "gaussians", "dataset.d=5")
    assert (code, err) == (0, [])
    assert out == ["d = 5, sign labels, 1 output; samples are drawn as they are needed"]


def test_the_name_may_be_a_key(capfd: pytest.CaptureFixture[str]) -> None:
    assert data(capfd, "dataset=gaussians", "dataset.d=5") == data(capfd, "gaussians", "dataset.d=5")


def test_help_lists_every_data_set(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = data(capfd, "--help")
    assert code == 0
    shown = {line.split()[0] for line in out if line.startswith("    ") and line[4] != " "}
    assert {file.stem for file in (conf_dir() / "dataset").glob("*.yaml")} <= shown
