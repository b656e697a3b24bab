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


class BlockStream(Stream):
    """A stream that draws ``BLOCK`` steps at a time."""

    def __init__(self) -> None:
        self._block = -1

    def batch(self, k: int) -> Batch:
        block, i = divmod(k, BLOCK)
        if block != self._block:
            self._draw(block)
            self._block = block
        return self._cut(i)

    @abstractmethod
    def _draw(self, block: int) -> None:
        """Prepare steps block * BLOCK and following."""

    @abstractmethod
    def _cut(self, i: int) -> Batch:
        """The block's i-th batch."""


class Fresh(BlockStream):
    """New samples at every step from ``draw(generator, count) -> (x (count, d), y (1, count))``."""

    def __init__(
        self,
        draw: Callable[[torch.Generator, int], Batch],
        batch: int,
        seed: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.draw, self.size, self.seed, self.dtype, self.device = draw, batch, seed, dtype, device

    def _draw(self, block: int) -> None:
        x, y = self.draw(generator("samples", self.seed, block), BLOCK * self.size)
        x = x.view(BLOCK, self.size, -1).to(self.device, self.dtype)
        # A batch's labels are contiguous, too: (BLOCK, 1, B).
        self._x, self._y = x, y.view(BLOCK, 1, self.size).to(self.device, self.dtype)

    def _cut(self, i: int) -> Batch:
        return self._x[i], self._y[i]


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
        super().__init__()
        self.gather, self.count, self.size, self.seed, self.order = gather, count, batch, seed, order
        self.device = device
        self._epoch, self._permutation = -1, torch.empty(0)

    def _draw(self, block: int) -> None:
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
        self._index = index.view(BLOCK, self.size).to(self.device)

    def _shuffled(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            self._permutation = torch.randperm(self.count, generator=generator("epoch", self.seed, epoch))
            self._epoch = epoch
        return self._permutation

    def _cut(self, i: int) -> Batch:
        return self.gather(self._index[i])


class Parallel(Stream):
    """One stream for each replicate, each repeated for the networks that share it: x (S, B, d), y (S, ...)."""

    def __init__(self, streams: list[Stream], copies: int = 1) -> None:
        self.streams, self.copies = streams, copies

    def batch(self, k: int) -> Batch:
        pairs = [pair for s in self.streams for pair in [s.batch(k)] * self.copies]
        return torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs])
