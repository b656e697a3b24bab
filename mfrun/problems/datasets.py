"""Data sets. Each is a dataclass of its configuration keys whose ``load`` returns a :class:`Problem`.

To add one: a class here with ``load``, ``@register``, and one YAML file in ``conf/dataset/``.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mfrun.errors import ConfigError, UserError
from mfrun.problems.problem import FiniteProblem, PopulationProblem, Problem
from mfrun.problems.tasks import Task
from mfrun.registry import register


@register("dataset", "gaussians")
@dataclass
class IsotropicGaussians:
    """Two isotropic Gaussians (Section 4.2.1): y = -1 or +1 with equal chance, x | y ~ N(0, (1 + y delta)^2 I_d).

    Attributes:
        d: dimension; the paper takes 32.
        delta: Delta in (0, 1); the paper takes 0.4.
    """

    d: int = 32
    delta: float = 0.4

    def __post_init__(self) -> None:
        if self.d < 1:
            raise ConfigError("d", self.d, "must be at least 1")
        if not 0 < self.delta < 1:
            raise ConfigError("delta", self.delta, "must lie between 0 and 1")

    def load(self, dtype: torch.dtype, device: torch.device) -> Problem:
        """Fresh samples at every step."""
        return PopulationProblem(self.draw, self.d, dtype, device)

    def draw(self, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        """``count`` samples: x (count, d), y (count,), float32."""
        y = torch.randint(0, 2, (count,), generator=generator).float().mul_(2).sub_(1)
        x = torch.randn((count, self.d), generator=generator)
        return x.mul_(y.mul(self.delta).add_(1).unsqueeze(1)), y


@dataclass
class _Torchvision:
    """A labelled image set of torchvision, pixels scaled to [-1, 1].

    Attributes:
        root: folder that holds (or will hold) the set in torchvision's layout.
        download: fetch the files where they are missing.
    """

    # What the published set holds: images in the training and the test split, and their shape.
    counts: ClassVar[tuple[int, int]]
    image: ClassVar[tuple[int, int, int]]

    root: str = "data"
    download: bool = True

    def load(self, dtype: torch.dtype, device: torch.device) -> Problem:
        """Read both splits; they stay uint8 in memory.

        Raises:
            UserError: files are missing or damaged and cannot be fetched.
        """
        splits = {}
        for train in (True, False):
            try:
                x, y = self._read(train)
            except Exception as error:  # Whatever the reader or the download of torchvision met.
                raise UserError(self._complaint(error)) from error
            if x.dtype != torch.uint8 or len(x) != len(y) or len(x) == 0 or int(y.min()) < 0 or int(y.max()) > 9:
                raise UserError(self._complaint(ValueError("images and labels do not fit together")))
            splits["train" if train else "test"] = (x, y)
        shape = splits["train"][0].shape[1:]
        if shape != splits["test"][0].shape[1:]:
            raise UserError(self._complaint(ValueError("the two splits have images of different sizes")))
        image = (shape[0], shape[1], shape[2] if len(shape) > 2 else 1)
        rows = {split: (x.flatten(1), y) for split, (x, y) in splits.items()}
        return FiniteProblem(rows, Task.CLASSES, 10, dtype, device, image)

    def verify(self, problem: FiniteProblem) -> str:
        """Hold what :meth:`load` read to the published set.

        Returns:
            What was compared, in words.

        Raises:
            UserError: this is another set, or a part of it.
        """
        counts = tuple(len(y) for _, y in problem.data.values())
        if (counts, problem.image) != (self.counts, self.image):
            here, there = (
                f"{c[0]} + {c[1]} images of {i}" for c, i in ((counts, problem.image), (self.counts, self.image))
            )
            raise UserError(f"dataset.root={self.root}: {here}, but {type(self).__name__} has {there}")
        return f"counts and sizes are those of the published set; {self._checksums()}"

    def _read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Images (N, H, W) or (N, H, W, C), uint8, and labels (N,), int64."""
        images = self._open(train)
        return torch.as_tensor(images.data), torch.as_tensor(images.targets, dtype=torch.int64)

    def _open(self, train: bool) -> Any:
        """torchvision's own object; its files are fetched where they are missing."""
        raise NotImplementedError

    def _checksums(self) -> str:
        """What was held to the checksums that torchvision knows.

        Raises:
            UserError: they differ.
        """
        raise NotImplementedError

    def _complaint(self, error: Exception) -> str:
        name = type(self).__name__
        if not self.download:
            hint = "dataset.download=true fetches them, dataset.root=PATH says where they are"
        else:
            hint = "they could not be fetched; put them there by hand or name their folder with dataset.root=PATH"
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return f"dataset.root={self.root}: no readable {name} files in {Path(self.root).resolve()} ({first}); {hint}"


@dataclass
class _Idx(_Torchvision):
    """MNIST and its kind. torchvision knows the md5 of the four packed files; what it reads are the unpacked ones."""

    counts = (60000, 10000)
    image = (28, 28, 1)

    def _read(self, train: bool) -> tuple[Tensor, Tensor]:
        # torchvision takes longer to import than MNIST to read: it is asked for files that are not there yet.
        stem = Path(self.root, type(self).__name__, "raw", "train" if train else "t10k")
        files = (Path(f"{stem}-images-idx3-ubyte"), Path(f"{stem}-labels-idx1-ubyte"))
        if not all(f.is_file() for f in files):
            return super()._read(train)
        return read_idx(files[0], 3), read_idx(files[1], 1).long()

    def _checksums(self) -> str:
        images, held = self._open(True), 0
        for name, md5 in images.resources:
            packed = Path(images.raw_folder, name)
            if not packed.is_file():
                continue
            data = packed.read_bytes()
            try:
                whole = hashlib.md5(data).hexdigest() == md5
                whole = whole and gzip.decompress(data) == packed.with_suffix("").read_bytes()
            except (OSError, EOFError, zlib.error):
                whole = False
            if not whole:
                raise UserError(
                    f"{packed}: not the published file, or not that beside it; remove both to fetch them again"
                )
            held += 1
        if not held:
            return "no archives lie beside the files, to hold them to the published md5"
        return f"{held} of {len(images.resources)} files agree with archives of the published md5"


def read_idx(file: Path, axes: int) -> Tensor:
    """An array of bytes in the format of MNIST: 0, 0, 8 for bytes, the number of axes, their lengths, the bytes.

    Raises:
        ValueError: the file holds something else, or not all of it.
    """
    data = np.fromfile(file, np.uint8)
    start = 4 + 4 * axes
    if len(data) < start or data[:4].tolist() != [0, 0, 8, axes]:
        raise ValueError(f"{file.name} is no idx file of {axes} axes")
    shape = data[4:start].view(">u4").tolist()
    if len(data) - start != math.prod(shape):
        raise ValueError(f"{file.name} holds {len(data) - start} bytes, and {math.prod(shape)} are announced")
    return torch.from_numpy(data[start:]).view(shape)


@register("dataset", "mnist")
@dataclass
class MNIST(_Idx):
    """Handwritten digits, d = 784, 10 classes (Section 4.2.1)."""

    def _open(self, train: bool) -> Any:
        from torchvision import datasets

        return datasets.MNIST(self.root, train=train, download=self.download)


@register("dataset", "fashion_mnist")
@dataclass
class FashionMNIST(_Idx):
    """Clothing, in MNIST's format."""

    def _open(self, train: bool) -> Any:
        from torchvision import datasets

        return datasets.FashionMNIST(self.root, train=train, download=self.download)


@register("dataset", "cifar10")
@dataclass
class CIFAR10(_Torchvision):
    """Small colour photographs, d = 3072, 10 classes (Section 4.2.1)."""

    counts = (50000, 10000)
    image = (32, 32, 3)

    def _open(self, train: bool) -> Any:
        from torchvision import datasets

        return datasets.CIFAR10(self.root, train=train, download=self.download)

    def _checksums(self) -> str:
        return "every file has the published md5"  # torchvision reads no other.


@register("dataset", "arrays")
@dataclass
class Arrays:
    """The user's own .npz with x_train, y_train, x_test, y_test.

    x: one sample a row, or images (N, H, W, C) (all axes but the first are flattened); uint8 is scaled to [-1, 1],
        floats are kept.
    y: integers are class labels 0 .. C-1 (or signs, where all are -1 or +1); floats are regression targets.

    Attributes:
        path: the file.
        task: ``auto`` (by the labels' type, as above), ``sign``, ``classes`` or ``regression``.
    """

    path: str = ""
    task: str = "auto"

    def __post_init__(self) -> None:
        if self.task not in ("auto", "sign", "classes", "regression"):
            raise ConfigError("task", self.task, "one of auto, sign, classes, regression")
        if not self.path:
            raise ConfigError("path", "''", "names the .npz file")

    def load(self, dtype: torch.dtype, device: torch.device) -> Problem:
        """Read the file.

        Raises:
            ConfigError: the file is missing, is no .npz, or its arrays do not fit together.
        """
        raw = self._read()
        x = {s: self._inputs(raw, s) for s in ("train", "test")}
        if x["train"].shape[1] != x["test"].shape[1]:
            self._refuse(f"x_train has {x['train'].shape[1]} numbers a sample, x_test {x['test'].shape[1]}")
        if x["train"].dtype != x["test"].dtype:
            self._refuse(f"x_train is {x['train'].dtype}, x_test {x['test'].dtype}")
        task = self._task(raw)
        y, n_out = self._labels(raw, task)
        for s in ("train", "test"):
            if len(raw[f"y_{s}"]) != len(x[s]):
                self._refuse(f"x_{s} has {len(x[s])} samples, y_{s} {len(raw[f'y_{s}'])}")
        shapes = {raw[f"x_{s}"].shape[1:] for s in x}
        image = next(iter(shapes)) if len(shapes) == 1 and raw["x_train"].ndim == 4 else None
        return FiniteProblem({s: (torch.from_numpy(x[s]), y[s]) for s in x}, task, n_out, dtype, device, image)

    def _read(self) -> dict[str, np.ndarray]:
        names = [f"{a}_{s}" for a in "xy" for s in ("train", "test")]
        file = Path(self.path)
        if not file.is_file():
            self._refuse("is a folder, not an .npz file" if file.is_dir() else "no such file")
        if not zipfile.is_zipfile(self.path):
            self._refuse("not an .npz file (numpy.savez writes one)")
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                missing = [n for n in names if n not in arrays]
                if missing:
                    self._refuse(f"the file has no {', '.join(missing)}")
                return {n: arrays[n] for n in names}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
            self._refuse(f"cannot be read as .npz ({str(error).splitlines()[0]})")
            raise AssertionError from error

    def _inputs(self, raw: dict[str, np.ndarray], split: str) -> np.ndarray:
        x = raw[f"x_{split}"]
        if x.ndim < 2 or 0 in x.shape:
            self._refuse(f"x_{split} has shape {x.shape}; it needs (samples, features)")
        x = x.reshape(len(x), -1)
        if x.dtype == np.uint8:
            return np.ascontiguousarray(x)
        if x.dtype.kind not in "fiu":
            self._refuse(f"x_{split} has dtype {x.dtype}; it must hold numbers")
        x = np.ascontiguousarray(x, dtype=np.float64 if x.dtype == np.float64 else np.float32)
        if not np.isfinite(x).all():
            self._refuse(f"x_{split} holds NaN or infinity")
        return x

    def _task(self, raw: dict[str, np.ndarray]) -> Task:
        if self.task != "auto":
            return Task(self.task)
        y = raw["y_train"]
        if y.dtype.kind not in "iub":
            return Task.REGRESSION
        return Task.SIGN if set(np.unique(y).tolist()) == {-1, 1} else Task.CLASSES

    def _labels(self, raw: dict[str, np.ndarray], task: Task) -> tuple[dict[str, Tensor], int]:
        ys = {s: raw[f"y_{s}"] for s in ("train", "test")}
        for s, y in ys.items():
            if y.dtype.kind not in "fiub":
                self._refuse(f"y_{s} has dtype {y.dtype}; it must hold numbers")
            if y.ndim == 0 or len(y) == 0:
                self._refuse(f"y_{s} is empty")
            if y.dtype.kind == "f" and not np.isfinite(y).all():
                self._refuse(f"y_{s} holds NaN or infinity")
            if task is not Task.REGRESSION and y.size != len(y):
                self._refuse(f"y_{s} has shape {y.shape}; {task.value} labels are one number a sample")
            if task is Task.SIGN and not np.isin(y, (-1, 1)).all():
                self._refuse(f"y_{s} holds labels other than -1 and +1")
            if task is Task.CLASSES and (y.min() < 0 or (y != np.round(y)).any()):
                self._refuse(f"y_{s} holds labels that are not 0, 1, 2, ...")
        if task is Task.CLASSES:
            classes = int(ys["train"].max()) + 1
            if classes < 2:
                self._refuse("y_train holds a single class")
            if int(ys["test"].max()) >= classes:
                self._refuse(f"y_test holds label {int(ys['test'].max())}; y_train's are 0 to {classes - 1}")
            return {s: torch.from_numpy(y.reshape(-1).astype(np.int64)) for s, y in ys.items()}, classes
        columns = {s: torch.from_numpy(y.reshape(len(y), -1).astype(np.float64)) for s, y in ys.items()}
        widths = {s: c.shape[1] for s, c in columns.items()}
        if widths["train"] != widths["test"]:
            self._refuse(f"y_train has {widths['train']} numbers a sample, y_test {widths['test']}")
        return columns, math.prod(ys["train"].shape[1:])

    def _refuse(self, why: str) -> None:
        raise ConfigError("path", self.path, why)
