"""How a long run shows itself: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import ClassVar

from tqdm import tqdm

# Seconds between two lines of a log.
INTERVAL = 10.0
# What a command says first: the folder follows. Python reads it there (mfrun.api).
WRITES_TO = "mfrun: writes to "

# Which run of the sweep this thread trains, and on which line its bar is.
_place: ContextVar[tuple[int, int]] = ContextVar("place", default=(0, 0))


def say(line: str) -> None:
    """One line to standard error, above any progress bar.

    A reader that has gone, or a full disk below a log, is no reason to stop: what is said is in the run's own log, too.
    """
    with suppress(OSError):
        tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()


class Runs:
    """Runs done in a sweep: a bar above those of the runs in hand; in a log, a count before a run's name.

    The bar moves, and the time left is told, by what the runs cost: the longest ones come first.

    Args:
        total: runs of the sweep.
        done: those that are done before it starts.
        cost: of all the others, in any unit.
    """

    current: ClassVar[Runs | None] = None

    def __init__(self, total: int, done: int, cost: float) -> None:
        self.total, self.started, self._done = total, done, done
        self._bar = tqdm(
            total=cost,
            desc=f"sweep {done}/{total} runs",
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            position=0,
            smoothing=0,
        )

    def one_more(self, cost: float) -> None:
        """A run has ended that cost so much of the whole."""
        self._done += 1
        self._bar.set_description_str(f"sweep {self._done}/{self.total} runs", refresh=False)
        self._bar.update(cost)
        self._bar.refresh()  # However soon after another.

    def __enter__(self) -> Runs:
        Runs.current = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Runs.current = None
        self._bar.close()


@contextmanager
def in_sweep(line: int) -> Iterator[None]:
    """The next run of the sweep starts; its bar is on this line below the sweep's."""
    if Runs.current is not None:
        Runs.current.started += 1
        token = _place.set((Runs.current.started, line))
    try:
        yield
    finally:
        if Runs.current is not None:
            _place.reset(token)


class Progress:
    """Steps done in one run.

    Args:
        label: names the run.
        steps: total.
        done: steps done before, where the run is resumed.
    """

    def __init__(self, label: str, steps: int, done: int = 0) -> None:
        runs = Runs.current
        number, line = _place.get()
        if runs is not None:
            label = f"[{number}/{runs.total}] {label}"
        self.label, self.steps = label, steps
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=steps,
            initial=done,
            desc=label,
            unit="step",
            disable=not self._terminal,
            dynamic_ncols=True,
            smoothing=0.1,
            position=line,
            leave=runs is None,
        )
        self._last_line = time.monotonic()

    def update(self, step: int) -> None:
        """Training has come to ``step``."""
        self._bar.update(step - self._bar.n)

    def note(self, line: str) -> None:
        """Said in a log only."""
        if not self._terminal:
            say(f"{self.label}  {line}")

    def report(self, step: int, metrics: dict[str, float], speed: float) -> None:
        """An evaluation; a log gets a line now and then, and at the end."""
        shown = {k: f"{v:.4g}" for k, v in metrics.items()}
        # A terminal's line is short; the losses alone.
        self._bar.set_postfix({k: v for k, v in shown.items() if k.endswith("_loss")}, refresh=False)
        now = time.monotonic()
        if not self._terminal and (now - self._last_line > INTERVAL or step == self.steps):
            self._last_line = now
            values = "  ".join(f"{k} {v}" for k, v in shown.items())
            say(f"{self.label}  step {step}/{self.steps}  {values}  {speed:.0f} steps/s")

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
