"""How a long run shows itself: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import ClassVar

from tqdm import tqdm

# Seconds between two lines of a log.
INTERVAL = 10.0


def say(line: str) -> None:
    """One line to standard error, above any progress bar."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()


class Runs:
    """Runs done in a sweep: a bar above the one of the run in hand; in a log, a count before the run's name."""

    current: ClassVar[Runs | None] = None

    def __init__(self, total: int) -> None:
        self.total, self.started = total, 0
        self.bar = tqdm(
            total=total, desc="sweep", unit="run", disable=not sys.stderr.isatty(), dynamic_ncols=True, position=0
        )

    @contextmanager
    def run(self) -> Iterator[None]:
        """One of the runs."""
        self.started += 1
        try:
            yield
        finally:
            self.bar.update(1)

    def __enter__(self) -> Runs:
        Runs.current = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Runs.current = None
        self.bar.close()


class Progress:
    """Steps done in one run.

    Args:
        label: names the run.
        steps: total.
        done: steps done before, where the run is resumed.
    """

    def __init__(self, label: str, steps: int, done: int = 0) -> None:
        runs = Runs.current
        if runs is not None:
            label = f"[{runs.started}/{runs.total}] {label}"
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
            position=0 if runs is None else 1,
            leave=runs is None,
        )
        self._last_line = time.monotonic()

    def update(self, step: int) -> None:
        """Training has come to ``step``."""
        self._bar.update(step - self._bar.n)

    def report(self, step: int, metrics: dict[str, float], speed: float) -> None:
        """An evaluation; a log gets a line now and then, and at the end."""
        shown = {k: f"{v:.4g}" for k, v in metrics.items()}
        self._bar.set_postfix(shown, refresh=False)
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
