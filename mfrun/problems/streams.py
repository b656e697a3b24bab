"""The samples of SGD as a function of (seed, step): nothing to save, nothing to replay.

Randomness is drawn in blocks of ``BLOCK`` steps, block j from a generator keyed by (seed, j). A resumed run therefore
sees what an uninterrupted one sees, and so do runs of different widths.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from mfrun.seeds import generator

BLOCK = 256

Batch = tuple[Tensor, Tensor]


class Stream(ABC):
    """Batches (x, y) by step number; x is (B, d), y as in :class:`mfrun.problems.tasks.Task`."""

    @abstractmethod
    def batch(self, k: int) -> Batch:
        """The batch of step k = 0, 1, ..."""

    @abstractmethod
    def load(self, block: int) -> None:
        """Prepare the steps of a block, in the memory that the block before it had."""

    def member(self, s: int) -> Stream:
        """What the s-th of the stacked networks sees."""
        return self

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Memory of the loaded block."""

    @abstractmethod
    def at(self, i: Tensor) -> Batch:
        """The loaded block's i-th batch, for i (1,) on the device: a CUDA graph can contain it."""


class BlockStream(Stream):
    """A stream that draws ``BLOCK`` steps at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._block, self._fixed = -1, False
        # What a block consists of, with its steps along the first axis.
        self._parts: tuple[Tensor, ...] = ()

    def batch(self, k: int) -> Batch:
        block, i = divmod(k, BLOCK)
        if block != self._block and not self._fixed:
            # Whoever has a batch may keep it.
            self._parts = ()
        self._fill(block)
        return self._cut(*(part[i] for part in self._parts))

    def load(self, block: int) -> None:
        self._fixed = True
        self._fill(block)

    def _fill(self, block: int) -> None:
        if block == self._block:
            return
        parts = self._draw(block)
        if self._parts:
            for old, new in zip(self._parts, parts, strict=True):
                old.copy_(new)
        else:
            self._parts = tuple(part.to(self.device) for part in parts)
        self._block = block

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._parts)

    def at(self, i: Tensor) -> Batch:
        return self._cut(*(part.index_select(0, i).squeeze(0) for part in self._parts))

    @abstractmethod
    def _draw(self, block: int) -> tuple[Tensor, ...]:
        """Steps block * BLOCK and following, as arrays of BLOCK rows."""

    @abstractmethod
    def _cut(self, *parts: Tensor) -> Batch:
        """The batch of one row of each."""


class Fresh(BlockStream):
    """New samples at every step from ``draw(generator, count) -> (x (count, d), y (count, ...))``."""

    def __init__(
        self,
        draw: Callable[[torch.Generator, int], Batch],
        batch: int,
        seed: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(device)
        self.draw, self.size, self.seed, self.dtype = draw, batch, seed, dtype

    def _draw(self, block: int) -> tuple[Tensor, ...]:
        x, y = self.draw(generator("samples", self.seed, block), BLOCK * self.size)
        x = x.view(BLOCK, self.size, -1).to(self.dtype)
        if y.dtype == torch.int64:
            return x, y.view(BLOCK, self.size)
        # A batch's labels are contiguous, too: (BLOCK, m, B).
        return x, y.view(BLOCK, self.size, -1).mT.contiguous().to(self.dtype)

    def _cut(self, *parts: Tensor) -> Batch:
        x, y = parts
        return x, y


class Drawn(BlockStream):
    """Samples of a finite set, ``order`` = ``iid`` with replacement or ``epochs``, shuffled anew for each epoch.

    Args:
        gather: makes the batch of the given indices.
        count: size of the set.
        batch: B.
        seed: of the order.
        order: ``iid`` or ``epochs``. Epochs follow one another without a gap: a batch may hold the end of one and the
            start of the next.
        device: where the indices are needed.
    """

    def __init__(
        self,
        gather: Callable[[Tensor], Batch],
        count: int,
        batch: int,
        seed: int,
        order: str,
        device: torch.device,
    ) -> None:
        super().__init__(device)
        self.gather, self.count, self.size, self.seed, self.order = gather, count, batch, seed, order
        self._epoch, self._permutation = -1, torch.empty(0)

    def _draw(self, block: int) -> tuple[Tensor, ...]:
        many = BLOCK * self.size
        if self.order == "iid":
            index = torch.randint(0, self.count, (many,), generator=generator("indices", self.seed, block))
        else:
            place, parts = block * many, []
            while many > 0:
                epoch, i = divmod(place, self.count)
                part = self._shuffled(epoch)[i : i + many]
                parts.append(part)
                place, many = place + len(part), many - len(part)
            index = torch.cat(parts)
        return (index.view(BLOCK, self.size),)

    def _shuffled(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            self._permutation = torch.randperm(self.count, generator=generator("epoch", self.seed, epoch))
            self._epoch = epoch
        return self._permutation

    def _cut(self, *parts: Tensor) -> Batch:
        return self.gather(parts[0])


class Parallel(Stream):
    """A stream for each of the networks, which may share some: x (S, B, d), y (S, ...).

    Args:
        streams: those that there are.
        chosen: the number of the stream of each network.
    """

    def __init__(self, streams: list[Stream], chosen: list[int]) -> None:
        self.streams, self.chosen = streams, chosen

    def batch(self, k: int) -> Batch:
        return self._stack([s.batch(k) for s in self.streams])

    def member(self, s: int) -> Stream:
        return self.streams[self.chosen[s]]

    def load(self, block: int) -> None:
        for s in self.streams:
            s.load(block)

    @property
    def nbytes(self) -> int:
        return sum(s.nbytes for s in self.streams)

    def at(self, i: Tensor) -> Batch:
        return self._stack([s.at(i) for s in self.streams])

    def _stack(self, batches: list[Batch]) -> Batch:
        pairs = [batches[i] for i in self.chosen]
        return torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs])
