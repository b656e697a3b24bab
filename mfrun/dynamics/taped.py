"""Steps of small networks from a tape."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from mfrun.dynamics.schedules import Rates
from mfrun.dynamics.steps import Counted, Steps
from mfrun.dynamics.tape import NotRecordable, Tape, record
from mfrun.networks.network import Network
from mfrun.networks.products import SMALL
from mfrun.problems.losses import Loss
from mfrun.problems.streams import BLOCK, Stream
from mfrun.runs.signals import Signals

# Multiplications up to which a product of stacked networks is made on one core, since there are other networks for the
# others, and inputs up to which they are; longer ones torch reads once for all networks together.
STACKED, INPUTS = 40e6, 1024
# Steps between two looks at whether a signal has come.
AT_ONCE = 64


class Taped(Steps):
    """Recorded once, and replayed by one compiled call for all steps up to the next stop.

    Stacked networks do not know each other, so each has a tape of its own, and as many run at the same time as there
    are threads.

    Raises:
        NotRecordable: a step cannot be recorded or does something else when it is replayed, or torch does better for
            all stacked networks together.
    """

    def __init__(self, network: Network, stream: Stream, loss: Loss, rates: Rates, batch: int) -> None:
        super().__init__(network, stream, loss, rates, batch)
        if network.replicates > 1 and network.d > INPUTS:
            raise NotRecordable("long inputs of stacked networks")
        members = [part.member(s) for part in network.parts for s in range(part.replicates)]
        for one in members:
            one.products = replace(one.products, direct=False)
        self.lanes = [Counted(one, stream.member(s), loss, rates, batch) for s, one in enumerate(members)]
        self.tapes = self._recorded()
        compiled = all(tape.compiled for tape in self.tapes)
        if len(self.lanes) > 1 and not compiled:
            raise NotRecordable("some of it is torch's")
        together = min(torch.get_num_threads(), len(self.lanes))
        self._pool = ThreadPoolExecutor(together) if together > 1 else None

    def _recorded(self) -> list[Tape]:
        """The tapes, held to two steps by torch; both move the weights, and they are put back.

        Members that have diverged tell nothing, and the others go on from a tape whether they are there or not.
        """
        state, tapes = self.network.state(), []
        before = {name: array.clone() for name, array in state.items()}
        start = {name: array.nan_to_num(0.0, 0.0, 0.0) for name, array in before.items()}
        try:
            self.network.load(start)
            self.enter(0)
            for lane in self.lanes:
                tapes.append(record(lane.step, STACKED if len(self.lanes) > 1 else SMALL))
                lane.step()
            moved = {name: array.clone() for name, array in state.items()}
            self.network.load(start)
            for lane, tape in zip(self.lanes, tapes, strict=True):
                lane.i.zero_()
                tape.replay(2)
            for name, array in state.items():
                finite = moved[name].flatten(1).isfinite().all(1)
                found, true = array[finite], moved[name][finite]
                if finite.any() and not torch.allclose(found, true, rtol=1e-4, atol=1e-5 * float(true.abs().max())):
                    raise NotRecordable(f"{name} goes elsewhere")
        finally:
            self.network.load(before)
        return tapes

    def enter(self, block: int) -> None:
        for lane in self.lanes:
            lane.enter(block)

    def _advance(self, k: int, end: int) -> int:
        for lane in self.lanes:
            lane.i.fill_(k % BLOCK)
        each = self._pool.map if self._pool else map
        while k < end and not Signals.received:
            steps = min(AT_ONCE, end - k)
            list(each(Tape.replay, self.tapes, itertools.repeat(steps)))
            k += steps
        self.yhat = torch.stack([lane.yhat for lane in self.lanes])
        return k
