"""SGD steps from one point of a run to another: one by one or from a tape on a CPU, as a CUDA graph on a GPU."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from mfrun.dynamics.schedules import Rates
from mfrun.networks.network import Network
from mfrun.problems.losses import Loss
from mfrun.problems.streams import BLOCK, Stream
from mfrun.runs.signals import Signals


class Steps(ABC):
    """The dynamics of one run.

    Args:
        network: what is trained.
        stream: the batches.
        loss: L.
        rates: of every step and layer.
        batch: B.

    Attributes:
        yhat: outputs of the last forward pass.
    """

    yhat: Tensor

    def __init__(self, network: Network, stream: Stream, loss: Loss, rates: Rates, batch: int) -> None:
        self.network, self.stream, self.loss, self.rates, self.batch = network, stream, loss, rates, batch
        self._block = -1

    def advance(self, k: int, end: int) -> int:
        """Steps k, k + 1, .. up to ``end``, which lie in one block.

        Returns:
            The next step to do: ``end``, or less where a signal asks to stop.
        """
        if k // BLOCK != self._block:
            self._block = k // BLOCK
            self.enter(self._block)
        return self._advance(k, end)

    @abstractmethod
    def enter(self, block: int) -> None:
        """Prepare the rates (and samples) of a block."""

    @abstractmethod
    def _advance(self, k: int, end: int) -> int:
        """Do what :meth:`advance` says."""


class Eager(Steps):
    """Step by step, called from Python."""

    def __init__(self, network: Network, stream: Stream, loss: Loss, rates: Rates, batch: int) -> None:
        super().__init__(network, stream, loss, rates, batch)
        self.ws = network.workspace(batch)

    def enter(self, block: int) -> None:
        # The mean over the batch is taken here.
        self.rows = [[r / self.batch for r in row] for row in self.rates.of_layers(block * BLOCK, BLOCK)]

    def _advance(self, k: int, end: int) -> int:
        while k < end and not Signals.received:
            x, y = self.stream.batch(k)
            self.yhat = self.network.forward(x, self.ws)
            self.network.descend(x, self.loss.gradient(y, self.yhat), self.rows[k % BLOCK], self.ws)
            k += 1
        return k


class Lasting(Eager):
    """Step by step at first, and from a tape (:mod:`mfrun.dynamics.taped`) once a run of a small network has lasted.

    What a step does depends on its number alone, so that a run that goes on, or on for longer, is the run it would have
    been; and one of few steps does not wait for a compiler.
    """

    # Preparing a tape takes as long as it saves in some thousand steps.
    LONG: ClassVar[int] = 20 * BLOCK

    def __init__(self, network: Network, stream: Stream, loss: Loss, rates: Rates, batch: int) -> None:
        super().__init__(network, stream, loss, rates, batch)
        self._later: Steps | None = None
        self._asked = False

    def advance(self, k: int, end: int) -> int:
        if k >= self.LONG and not self._asked:
            self._asked, self._later = True, self._taped()
        if self._later is None:
            return super().advance(k, end)
        k = self._later.advance(k, end)
        self.yhat = self._later.yhat
        return k

    def _taped(self) -> Steps | None:
        """None where there is no compiler, or a step cannot be recorded."""
        try:
            from mfrun.dynamics.tape import NotRecordable
            from mfrun.dynamics.taped import Taped
        except (ImportError, RuntimeError):
            return None
        try:
            return Taped(self.network, self.stream, self.loss, self.rates, self.batch)
        except NotRecordable:
            return None


class Counted(Steps):
    """Steps that find their samples and their rate by a counter on the device, so that they are all alike."""

    def __init__(self, network: Network, stream: Stream, loss: Loss, rates: Rates, batch: int) -> None:
        super().__init__(network, stream, loss, rates, batch)
        self.ws = network.workspace(batch)
        like = next(iter(network.state().values()))
        self.i = torch.zeros(1, dtype=torch.int64, device=like.device)
        self.common = torch.zeros(BLOCK, dtype=like.dtype, device=like.device)

    def enter(self, block: int) -> None:
        self.stream.load(block)
        self.common.copy_(torch.from_numpy(self.rates.common(block * BLOCK, BLOCK) / self.batch))

    def step(self) -> None:
        x, y = self.stream.at(self.i)
        self.yhat = self.network.forward(x, self.ws)
        # All signals are proportional to this one, so that the rate can enter here.
        D = self.loss.gradient(y, self.yhat).mul_(self.common.index_select(0, self.i))
        self.network.descend(x, D, self.rates.factors, self.ws)
        self.i += 1

    def _advance(self, k: int, end: int) -> int:
        self.i.fill_(k % BLOCK)
        for _ in range(end - k):
            self.step()
        return end


class Graphed(Counted):
    """The same, recorded once and replayed: the host launches a few graphs for a block of steps and is free."""

    # Steps in a graph; what is left of a segment runs in graphs of one.
    LONG: ClassVar[int] = 16
    # One recording at a time in a process, whatever the other threads do.
    _recording: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, network: Network, stream: Stream, loss: Loss, rates: Rates, batch: int) -> None:
        super().__init__(network, stream, loss, rates, batch)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def _record(self) -> None:
        """Warm up, which moves the weights, and put them back; recording itself moves nothing."""
        before = {name: array.clone() for name, array in self.network.state().items()}
        self.i.zero_()
        for _ in range(3):
            self.step()
        self.network.load(before)
        # Torch's own stream for recording is one of the device that was current when it was first asked for, and what
        # runs on another device meanwhile is not recorded. The default stream records nothing at all.
        device = self.i.device
        with self._recording, torch.cuda.device(device):
            current = torch.cuda.current_stream()
            stream = current if current.cuda_stream else torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            for count in (1, self.LONG):
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    for _ in range(count):
                        self.step()
                self._graphs[count] = graph

    def _advance(self, k: int, end: int) -> int:
        if not self._graphs:
            self._record()
        self.i.fill_(k % BLOCK)
        long, short = divmod(end - k, self.LONG)
        for _ in range(long):
            self._graphs[self.LONG].replay()
        for _ in range(short):
            self._graphs[1].replay()
        if end % BLOCK == 0 and end < self.rates.steps:
            # The next samples are drawn while the device works on these.
            self._block = end // BLOCK
            self.enter(self._block)
        return end
