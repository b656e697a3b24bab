"""Preemption and time-outs: what a job does when its scheduler wants the node back."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mfrun.errors import Interrupted
from mfrun.runs.progress import say
from mfrun.runs.signals import Signals

# submitit asks for a checkpoint by one of these; which one, the variable SUBMITIT_PREEMPT_SIGNAL says.
_ASKING = (signal.SIGUSR1, signal.SIGUSR2)


@contextmanager
def requeued_on_signal() -> Iterator[None]:
    """Within it, the signal by which the launcher requeues this job waits until the run has saved its state.

    The launcher has a handler in place before it calls the job (submitit: for SIGUSR2). That handler requeues the
    job and ends the process; here it is called once the run has stopped. SIGTERM saves and stops as always: it is what
    Slurm sends where it cancels a job, or requeues one of its own accord.

    Raises:
        SystemExit: the job is to end.
    """
    handlers = {n: handler for n in _ASKING if callable(handler := signal.getsignal(n))}
    asked: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        Signals.received = Signals.received or number

    Signals.patient = True  # A scheduler may send several signals.
    with Signals():
        for number in handlers:
            signal.signal(number, stop)
        try:
            yield
        except Interrupted as stopped:
            say("mfrun: stopped; the state is saved")
            for first in asked[:1]:
                handlers[signal.Signals(first)](first, None)
            if handlers:
                sys.exit(128 + stopped.signal_number)
            raise
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
