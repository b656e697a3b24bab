"""Ctrl-C and SIGTERM, heard by every run of this process."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, ClassVar

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """Within it, SIGINT and SIGTERM ask the runs to stop at their next step; a second one stops the process at once.

    Attributes:
        received: the number of the signal, or 0.
        patient: pass over a second signal.
    """

    received: ClassVar[int] = 0
    patient: ClassVar[bool] = False
    _depth: ClassVar[int] = 0

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in STOPPING:
            try:
                self._before[number] = signal.signal(number, self._handle)
            except ValueError:
                # Only the main thread may set handlers, and it has a context of its own around this one.
                return self
        if Signals._depth == 0:
            Signals.received = 0
        Signals._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Signals._depth -= bool(self._before)
        if self._before and Signals._depth == 0:
            # What has been heard has been done; runs in other threads, which set no handlers, begin anew.
            Signals.received = 0
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @staticmethod
    def _handle(number: int, frame: FrameType | None) -> None:
        if Signals.received and not Signals.patient:
            raise KeyboardInterrupt
        Signals.received = number
