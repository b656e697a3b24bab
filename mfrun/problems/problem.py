"""A problem: the law P that samples come from, ready to be cut into batches on the device."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mfrun.errors import ConfigError, UserError
from mfrun.problems.streams import Batch, Drawn, Fresh, Stream
from mfrun.problems.tasks import Task
from mfrun.registry import reason
from mfrun.seeds import generator

# Samples in one forward pass of an evaluation.
CHUNK = 1000
# Inputs whose covariance tells their principal directions.
SEEN = 10000


class Problem(ABC):
    """Inputs in R^d with labels.

    Attributes:
        d: input dimension.
        n_out: number of outputs that the labels ask for.
        task: the kind of labels.
        splits: names of the evaluated sets; the last one also gives the pre-activation statistics.
        image: (H, W, C), where a sample is an image, flattened in this order; else None.
        classes: what the classes 0 .. C - 1 are called in the data, where that is known.
    """

    d: int
    n_out: int
    task: Task
    splits: tuple[str, ...]
    image: tuple[int, int, int] | None = None
    classes: list[Any] | None = None
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def stream(self, seed: int, batch: int, order: str) -> Stream:
        """The batches of SGD, see :mod:`mfrun.problems.streams`."""

    @abstractmethod
    def evaluation(self, seed: int, samples: int) -> dict[str, Evaluation]:
        """At most ``samples`` samples of each split, fixed by the seed."""

    def principal(self, m: int, seen: Callable[[Tensor], Tensor], name: str) -> Tensor:
        """The m directions in which the training inputs vary most, (m, size), orthonormal, float64, on the CPU.

        Eigenvectors of the covariance of what is seen of up to ``SEEN`` inputs, the largest eigenvalue first; the
        largest component of each is positive. Of a population, which has no training set, the inputs are those that
        seed 0 evaluates at.

        Args:
            m: directions.
            seen: of inputs (samples, d), what a neuron of the first layer gets, (rows, size).
            name: of ``seen``; what has been asked for once is kept for the other runs on these data.
        """
        kept: dict[tuple[int, str], Tensor] = self.__dict__.setdefault("_principal", {})
        if (m, name) in kept:
            return kept[m, name]
        # Slow to import, and most runs do without.
        from scipy.linalg import eigh

        rows, total, products = 0, torch.zeros(()), torch.zeros(())
        for x, _ in next(iter(self.evaluation(0, SEEN).values())):
            part = seen(x).double()
            rows, total, products = rows + len(part), total + part.sum(0).cpu(), products + (part.T @ part).cpu()
        mean = total / rows
        size = len(mean)
        _, found = eigh((products / rows - mean[:, None] * mean).numpy(), subset_by_index=[size - m, size - 1])
        directions = torch.from_numpy(found.T[::-1].copy())
        kept[m, name] = directions * directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
        return kept[m, name]

    def inputs(self, x: Tensor) -> Tensor:
        """Inputs (samples, ...) as a data set has them, as a network takes them: (samples, d).

        Raises:
            UserError: they have another size, or are neither pixels (uint8) nor floats.
        """
        size = x.shape[1:].numel()
        if x.dim() < 2 or size != self.d:
            raise UserError(f"inputs of shape {tuple(x.shape)}: these networks take (samples, {self.d})")
        if self.image is not None and x.dim() > 2 and _sides(x.shape[1:]) != _sides(self.image):
            raise UserError(f"inputs of shape {tuple(x.shape)}: images are (samples, H, W, C), here {self.image}")
        if x.dtype != torch.uint8 and not x.is_floating_point():
            raise UserError(f"inputs of type {x.dtype}: pixels are uint8, anything else is floats")
        return scaled(x.flatten(1).to(self.device), self.dtype)


# Runs that go on, and runs of several widths, see the same samples.
OTHERS = "others when they are drawn again; all chance comes from the generator that is given"


def same(samples: Tensor, again: Tensor) -> bool:
    """Whether two arrays hold the same, whatever is not finite in them."""
    return torch.equal(samples.nan_to_num(), again.nan_to_num())


def _sides(shape: Sequence[int]) -> list[int]:
    """The axes of an image that are more than one number long."""
    return [side for side in shape if side > 1]


def refuse_unless_sound(problem: Problem, name: str) -> None:
    """Try a data set of the user's own: a few samples of each split.

    Raises:
        ConfigError: it is no problem, or its samples are not what its task says, or are others when drawn again.
    """
    if not isinstance(problem, Problem):
        raise ConfigError("dataset.name", name, f"load returns {type(problem).__name__}, no mfrun.problems.Problem")
    try:
        drawn, again = (
            [(split, *batch) for split, one in problem.evaluation(0, 200).items() for batch in one] for _ in range(2)
        )
        twice = zip(drawn, again, strict=True)
        why = next(filter(None, (_unsound(problem, *one, other[1:]) for one, other in twice)), None)
    except Exception as error:  # It is the user's own code.
        raise ConfigError("dataset.name", name, f"fails ({type(error).__name__}: {reason(error)})") from error
    if why:
        raise ConfigError("dataset.name", name, why)


def _unsound(problem: Problem, split: str, x: Tensor, y: Tensor, again: Batch) -> str | None:
    """What is wrong with samples (B, d) and their labels, drawn twice, in words."""
    task, n_out = problem.task, problem.n_out
    if x.dim() != 2 or x.shape[1] != problem.d:
        return f"its {split} samples are of shape {tuple(x.shape)}, not (samples, d) with d = {problem.d}"
    if not bool(x.isfinite().all()):
        return f"its {split} samples are not finite"
    if task is Task.CLASSES:
        if y.dtype != torch.int64 or not bool(((y >= 0) & (y < n_out)).all()):
            return f"its {split} labels are no classes: int64 from 0 to {n_out - 1}"
    elif y.dtype == torch.int64 or tuple(y.shape) != (n_out, len(x)):
        return f"its {split} labels are not floats, {n_out} for each sample"
    elif task is Task.SIGN and not bool((y.abs() == 1).all()):
        return f"its {split} labels are no signs: -1 or +1"
    if not all(map(same, (x, y), again)):
        return f"its {split} samples are {OTHERS}"
    return None


def scaled(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Samples in the type of the network: pixels 0..255 become -1..1, other numbers stay as they are."""
    pixels, x = x.dtype == torch.uint8, x.to(dtype)
    return x.mul_(2 / 255).sub_(1) if pixels else x


class Evaluation:
    """A fixed set of samples, walked in chunks of at most ``CHUNK``."""

    def __init__(self, count: int, cut: Callable[[int, int], Batch]) -> None:
        self.count, self._cut = count, cut

    def __iter__(self) -> Iterator[Batch]:
        for i in range(0, self.count, CHUNK):
            yield self._cut(i, min(i + CHUNK, self.count))

    def first(self, count: int) -> Batch:
        """So many of the samples in one piece, or all where there are fewer; contiguous."""
        x, y = self._cut(0, min(count, self.count))
        return x.contiguous(), y.contiguous()


class PopulationProblem(Problem):
    """Samples that can be drawn without end.

    Args:
        draw: (generator, count) -> x (count, d) and y: signs (count,), targets (count, m), or classes (count,), int64.
        d: dimension.
        dtype: of the batches.
        device: where they are needed.
        task: the kind of labels.
        n_out: outputs that the labels ask for.
    """

    splits = ("population",)

    def __init__(
        self,
        draw: Callable[[torch.Generator, int], Batch],
        d: int,
        dtype: torch.dtype,
        device: torch.device,
        task: Task = Task.SIGN,
        n_out: int = 1,
    ) -> None:
        self.draw, self.d, self.dtype, self.device, self.task, self.n_out = draw, d, dtype, device, task, n_out

    def stream(self, seed: int, batch: int, order: str) -> Stream:
        return Fresh(self.draw, batch, seed, self.dtype, self.device)

    def evaluation(self, seed: int, samples: int) -> dict[str, Evaluation]:
        @functools.cache
        def drawn() -> Batch:
            # Only when they are asked for: how many there are is known before, and there may be more than memory has.
            x, y = self.draw(generator("evaluation", seed), samples)
            x, y = x.to(self.device, self.dtype), y.to(self.device)
            return x, y if y.dtype == torch.int64 else y.to(self.dtype).view(samples, -1).T

        def cut(i: int, j: int) -> Batch:
            x, y = drawn()
            return x[i:j], y[..., i:j]

        return {"population": Evaluation(samples, cut)}


class FiniteProblem(Problem):
    """A training set and a test set, kept on the device in the type in which they are stored.

    Args:
        data: for each split x (N, d), uint8 or float, and y: int64 (N,) for classes, float (N, m) otherwise.
        task: the kind of labels.
        n_out: outputs that the labels ask for.
        dtype: of the batches.
        device: where everything lives.
        image: (H, W, C), where x is an image.
        standardize: shift and scale every input to mean 0 and deviation 1 over the training set; one that is the same
            for all samples is only shifted.
    """

    splits = ("train", "test")

    def __init__(
        self,
        data: dict[str, tuple[Tensor, Tensor]],
        task: Task,
        n_out: int,
        dtype: torch.dtype,
        device: torch.device,
        image: tuple[int, int, int] | None = None,
        standardize: bool = False,
    ) -> None:
        self.task, self.n_out, self.dtype, self.device, self.image = task, n_out, dtype, device, image
        self.data, self._standard = {}, None
        self._pixels = data["train"][0].dtype == torch.uint8
        if standardize:
            train = scaled(data["train"][0], torch.float64)
            deviation = train.std(0, correction=0)
            self._standard = (train.mean(0), torch.where(deviation > 0, deviation, 1.0))
            data = {s: (self._standardized(scaled(x, torch.float64)).to(dtype), y) for s, (x, y) in data.items()}
        for split, (x, y) in data.items():
            y = y if y.dtype == torch.int64 else y.to(dtype)
            self.data[split] = (x.to(device).contiguous(), y.to(device))
        self.d = self.data["train"][0].shape[1]

    def _standardized(self, x: Tensor) -> Tensor:
        if self._standard is None:
            return x
        mean, deviation = (array.to(x.device, x.dtype) for array in self._standard)
        return (x - mean) / deviation

    def inputs(self, x: Tensor) -> Tensor:
        found = super().inputs(x)
        if self._pixels and x.dtype != torch.uint8 and bool((found.abs() > 1).any()):
            raise UserError(
                f"inputs of type {x.dtype}: these data are pixels, uint8, or floats scaled to -1..1 already"
            )
        if not self._pixels and x.dtype == torch.uint8:
            raise UserError(f"inputs of type {x.dtype}: these data are floats, and nothing scales them")
        if self._standard is None:
            return found
        # What is standardized loses its offset before it is rounded.
        return self._standardized(scaled(x.flatten(1).to(self.device), torch.float64)).to(self.dtype)

    def gather(self, index: Tensor, split: str = "train") -> Batch:
        """The samples of the given indices: pixels 0..255 become -1..1, labels become columns."""
        x, y = self.data[split]
        x, y = x.index_select(0, index), y.index_select(0, index)
        return scaled(x, self.dtype), y if y.dtype == torch.int64 else y.T

    def stream(self, seed: int, batch: int, order: str) -> Stream:
        return Drawn(self.gather, len(self.data["train"][0]), batch, seed, order, self.device)

    def evaluation(self, seed: int, samples: int) -> dict[str, Evaluation]:
        return {split: self._evaluated(split, seed, samples) for split in self.splits}

    def _evaluated(self, split: str, seed: int, samples: int) -> Evaluation:
        count = len(self.data[split][0])
        index = torch.arange(count)
        if count > samples:
            chosen = torch.randperm(count, generator=generator("evaluation", seed, self.splits.index(split)))[:samples]
            index = chosen.sort().values
        index = index.to(self.device)
        return Evaluation(len(index), lambda i, j: self.gather(index[i:j], split))
