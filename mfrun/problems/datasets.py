"""Data sets. Each is a dataclass of its configuration keys whose ``load`` returns a :class:`Problem`.

To add one: a class here with ``load``, ``@register``, and one YAML file in ``conf/dataset/``.
"""

from __future__ import annotations

import gzip
import hashlib
import math
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
        x = torch.randn((count, self.d), generator=generator, dtype=torch.float32)
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
