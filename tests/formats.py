"""Tiny data sets in the real formats: MNIST's idx files, CIFAR-10's python batches, and .npz."""

from __future__ import annotations

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np

Split = tuple[np.ndarray, np.ndarray]


def images(seed: int, count: int, shape: tuple[int, ...], classes: int = 10) -> Split:
    """Random uint8 pixels, the values 0 and 255 among them, and labels that take each class in turn."""
    x = np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
    x.reshape(count, -1)[:, 0], x.reshape(count, -1)[:, 1] = 0, 255
    return x, np.arange(count) % classes


def write_idx(file: Path, array: np.ndarray) -> None:
    """An idx file of unsigned bytes, big-endian sizes, as http://yann.lecun.com/exdb/mnist describes it."""
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    file.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(root: Path, name: str = "MNIST", counts: tuple[int, int] = (20, 10)) -> dict[str, Split]:
    """``root/MNIST/raw/train-images-idx3-ubyte`` and its three companions; FashionMNIST's have the same names."""
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    splits = {}
    for seed, (split, prefix, count) in enumerate(zip(("train", "test"), ("train", "t10k"), counts, strict=True)):
        x, y = splits[split] = images(seed, count, (28, 28))
        write_idx(raw / f"{prefix}-images-idx3-ubyte", x)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", y)
    return splits


def write_cifar10(root: Path) -> tuple[dict[str, Split], dict[str, str]]:
    """``root/cifar-10-batches-py`` with four images a batch, and the md5 of each file.

    torchvision only reads files whose sums are those of the published ones, so a test gives it these instead.
    """
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    files = {f"data_batch_{i}": images(i, 4, (3072,)) for i in range(1, 6)}
    files["test_batch"] = images(6, 4, (3072,))
    sums = {}
    for name, (x, y) in files.items():
        sums[name] = _pickle(folder / name, {"data": x, "labels": y.tolist()})
    sums["batches.meta"] = _pickle(folder / "batches.meta", {"label_names": [f"class {i}" for i in range(10)]})
    train = [files[f"data_batch_{i}"] for i in range(1, 6)]
    splits = {
        "train": (np.concatenate([x for x, _ in train]), np.concatenate([y for _, y in train])),
        "test": files["test_batch"],
    }
    return splits, sums


def write_arrays(file: Path, seed: int = 0, *, labels: str = "classes", counts: tuple[int, int] = (20, 10)) -> None:
    """An .npz with x_train, y_train, x_test, y_test: three features, and labels of the kind asked for."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, count in zip(("train", "test"), counts, strict=True):
        arrays[f"x_{split}"] = rng.standard_normal((count, 3)).astype(np.float32)
        kinds = {
            "classes": np.arange(count) % 3,
            "sign": np.arange(count) % 2 * 2 - 1,
            "regression": rng.standard_normal(count),
        }
        arrays[f"y_{split}"] = kinds[labels]
    np.savez(file, **arrays)


def _pickle(file: Path, content: object) -> str:
    data = pickle.dumps(content)
    file.write_bytes(data)
    return hashlib.md5(data).hexdigest()
