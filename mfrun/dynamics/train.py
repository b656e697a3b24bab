"""The training loop."""

from __future__ import annotations

import math
import signal
import socket
import time
from contextlib import suppress
from typing import Any

import torch

from mfrun import __version__
from mfrun.config import stood_label
from mfrun.dynamics.continued import refuse_changes
from mfrun.dynamics.evaluate import grid, kept_steps
from mfrun.dynamics.experiment import Experiment
from mfrun.dynamics.kernels import Measured, at_infinity
from mfrun.errors import Interrupted, UserError, unforeseen
from mfrun.networks.network import Network
from mfrun.problems.streams import BLOCK
from mfrun.runs.columns import doubt, doubtful
from mfrun.runs.directory import RunDirectory
from mfrun.runs.loggers import Tolerated
from mfrun.runs.progress import WRITES_TO, Progress, say
from mfrun.runs.signals import Signals


def train(
    experiment: Experiment, content: dict[str, Any], run: RunDirectory, label: str | None = None
) -> dict[str, Any]:
    """Train one experiment to its end, from the start or from where the run directory stands.

    Args:
        experiment: what the run consists of.
        content: the keys that decide what is computed (:func:`mfrun.config.content`); written as config.yaml.
        run: where everything goes.
        label: names the run in progress bars and logs; its width by default.

    Returns:
        The run's final status.

    Raises:
        UserError: the folder is in use, or holds another run.
        Interrupted: SIGINT or SIGTERM; the state has been saved.
    """
    cfg = experiment.cfg
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    begun = run.exists()
    if begun and not cfg.resume:
        raise UserError(f"dir={run.path}: holds a run already; resume=true goes on with it")
    if begun:
        refuse_changes(run, content, growing=not experiment.schedule.needs_end)
        if run.done() and run.status().get("steps") == cfg.steps:
            return run.status()
    run.path.mkdir(parents=True, exist_ok=True)
    run.lock()
    try:
        if run.exists() and not begun:  # Another process has begun it since, and ended it, or it would have the lock.
            raise UserError(f"dir={run.path}: another process has just begun a run in this folder")
        run.create(content, experiment.problem.classes)
        if label is None:
            say(f"{WRITES_TO}{run.path}")
        return _trained(experiment, run, label or f"n={stood_label(cfg.width, cfg.neurons)}")
    finally:
        run.unlock()


def _trained(experiment: Experiment, run: RunDirectory, label: str) -> dict[str, Any]:
    """Train in a folder that is this process's own, and say there where that fails."""

    def reached() -> dict[str, Any]:
        return {k: v for k, v in run.status().items() if k in ("step", "steps")}

    try:
        return _Loop(experiment, run, label).go()
    except Interrupted:
        raise
    except KeyboardInterrupt as error:  # Ctrl-C before the first step, or behind the last.
        run.write_status("interrupted", **reached())
        raise Interrupted(signal.SIGINT) from error
    except BaseException as error:
        said = str(error) if isinstance(error, UserError) else unforeseen(error)
        with suppress(OSError):  # The disk may be full.
            run.write_status("failed", error=said[:500], **reached())
        run.log(f"failed: {said}")
        raise


class _Loop:
    """One run in memory."""

    def __init__(self, experiment: Experiment, run: RunDirectory, label: str) -> None:
        self.experiment, self.run, self.cfg, self.label = experiment, run, experiment.cfg, label
        self.network: Network = experiment.network()
        self.stream = experiment.stream()
        cfg = self.cfg
        self.evaluator = experiment.evaluator()
        count = cfg.evaluation.kernels
        self.kernels = Measured(experiment, self.evaluator, count) if count else None
        self.grid = grid(cfg.steps, cfg.evaluation.points_per_decade)
        self.kept = kept_steps(self.grid, cfg.keep_checkpoints)
        self.step, self.seconds_before = 0, 0.0
        self.latest: dict[str, float] = {}
        self.latest_errors: dict[str, float] = {}
        self.logger = Tolerated(cfg.logger, label)
        self.logger.tell("start", run.path, self._restore())
        self.started, self.first_step = time.perf_counter(), self.step
        self.saved_at, self.saved_step = time.monotonic(), -1

    def go(self) -> dict[str, Any]:
        """Train from the current step to the end."""
        try:
            return self._go()
        finally:
            self.logger.tell("close")

    def _go(self) -> dict[str, Any]:
        cfg = self.cfg
        dynamics = self.experiment.steps(self.network, self.stream)
        evaluate_at = sorted(k for k in set(self.grid) - self.evaluated if k >= self.step)
        self.run.write_status("running", **self._facts())
        with Signals(), Progress(self.label, cfg.steps, self.step) as progress:
            threads = torch.get_num_threads()
            library = self.network.products.library
            how = f"{threads} thread{'s' if threads > 1 else ''}, products by {library}"
            progress.note(how)
            made = f"mfrun {__version__}, torch {torch.__version__}, {self.experiment.device}, {socket.gethostname()}"
            self.run.log(f"step {self.step}/{cfg.steps}: running; {how}; {made}")
            while True:
                if self.step in evaluate_at:
                    evaluate_at.remove(self.step)
                    self._evaluate(progress)
                    if not self._any_finite():
                        return self._finish("diverged")
                if self.step == cfg.steps:
                    break
                if Signals.received:
                    self._save()
                    self.run.write_status("interrupted", **self._facts())
                    self.run.log(f"step {self.step}/{cfg.steps}: stopped by signal {Signals.received}, and saved")
                    raise Interrupted(Signals.received)

                block_ends = self.step - self.step % BLOCK + BLOCK
                self.step = dynamics.advance(self.step, min([cfg.steps, block_ends, *evaluate_at[:1]]))

                if self.step == block_ends:
                    progress.update(self.step)
                    if not bool(torch.isfinite(dynamics.yhat).any()):
                        return self._finish("diverged")
                    if time.monotonic() - self.saved_at > cfg.checkpoint_seconds:
                        self._save()
                        self.run.write_status("running", **self._facts())
            progress.update(cfg.steps)
        diverged = any(not math.isfinite(v) for v in self.latest_losses)
        return self._finish("diverged" if diverged else "finished")

    def _evaluate(self, progress: Progress) -> None:
        """One row for each replicate, on disk, and the state with it."""
        measured = self.evaluator(self.network)
        if self.kernels is not None:
            kernels = self.kernels(self.network)
            measured |= self.kernels.columns(kernels)
            arrays = at_infinity(kernels, self.experiment)
            self.run.save_kernels(self.step, {name: array.float().numpy() for name, array in arrays.items()})
        columns = self.experiment.over_sets(measured)
        wall = self._seconds()
        rows = [
            {
                "step": self.step,
                "t": self.step * self.cfg.alpha,
                "replicate": r,
                **{name: values[r] for name, values in columns.items()},
                "wall_seconds": round(wall, 3),
            }
            for r in range(self.experiment.replicates)
        ]
        self.run.append(rows)
        losses = next(name for name in columns if name.endswith("_loss"))
        self.latest_losses = columns[losses]
        shown = [n for n in columns if n.endswith(("_loss", "_error"))]
        means = {n: sum(values) / len(values) for n, values in columns.items()}
        self._remember(means, shown)
        self._save()
        self.run.write_status("running", **self._facts())
        self.logger.tell("log", rows)
        progress.update(self.step)
        progress.report(self.step, self.latest, self._speed())
        values = "  ".join(f"{k} {v:.4g}" for k, v in self.latest.items())
        self.run.log(f"step {self.step}/{self.cfg.steps}: {values}")

    def _remember(self, means: dict[str, float], shown: list[str]) -> None:
        """The means over replicates at the latest evaluation, for the status."""
        self.latest = {n: float(means[n]) for n in shown}
        self.latest_errors = {f"{n}_se": float(means[f"{n}_se"]) for n in shown if f"{n}_se" in means}

    def _any_finite(self) -> bool:
        return any(math.isfinite(v) for v in self.latest_losses)

    def _finish(self, state: str) -> dict[str, Any]:
        self.run.write_status(state, **self._facts())
        self.run.log(f"step {self.step}/{self.cfg.steps}: {state}")
        if self.experiment.blueprint.union and (steps := doubtful(self.run.metrics())) is not None:
            self.run.log(doubt(steps))
            say(f"{self.label}  {doubt(steps)}")
        self.logger.tell("finish", self.run.path)
        if state == "diverged":
            say(f"{self.label}  diverged: the loss is not finite at step {self.step}; its rows are kept")
        return self.run.status()

    def _save(self) -> None:
        if self.step != self.saved_step:
            facts = {"wall_seconds": self._seconds(), "version": __version__, "torch": torch.__version__}
            self.run.save_state(self.step, self.network.state(), facts, keep=self.step in self.kept)
        self.saved_at, self.saved_step = time.monotonic(), self.step

    def _restore(self) -> list[dict[str, Any]]:
        """Go back to the newest whole state, and drop the rows that were written after it; returns those that stay.

        Raises:
            UserError: what the state's JSON says is damaged.
        """
        found = self.run.load_state(warn=say)
        if found is None:
            self.run.keep_rows(set())
            self.evaluated: set[int] = set()
            return []
        tensors, facts = found
        self.network.load(tensors)
        try:
            self.step, self.seconds_before = facts["step"], float(facts["wall_seconds"])
        except (KeyError, TypeError, ValueError) as error:
            file = self.run.path / f"state-{facts['step']:08d}.json"
            said = "it holds no number of wall_seconds; without it, the run goes on from the state before it"
            raise UserError(f"{file}: damaged: {said}") from error
        self.run.keep_rows({k for k in self.grid if k <= self.step})
        rows = self.run.metrics()
        complete = rows.groupby("step")["replicate"].count() == self.experiment.replicates
        self.evaluated = {int(k) for k in complete.index[complete]}
        self.run.keep_rows(self.evaluated)
        if lost := sorted(k for k in self.grid if k < self.step and k not in self.evaluated):
            say(f"{self.label}  metrics.csv has no whole row of step {', '.join(map(str, lost))}, and gets none")
        if len(rows):
            last = rows[rows["step"] == rows["step"].max()]
            shown = [c for c in map(str, rows) if c.endswith(("_loss", "_error"))]
            self.latest_losses = last[shown[0]].tolist()
            self._remember(last.mean(numeric_only=True).to_dict(), shown)
        kept = rows[rows["step"].isin(self.evaluated)]
        return [{str(column): value for column, value in row.items()} for row in kept.to_dict("records")]

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started

    def _speed(self) -> float:
        return (self.step - self.first_step) / max(time.perf_counter() - self.started, 1e-9)

    def _facts(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "steps": self.cfg.steps,
            **({"neurons": self.cfg.neurons} if self.experiment.blueprint.stood_for else {}),
            "wall_seconds": round(self._seconds(), 3),
            "steps_per_second": round(self._speed(), 1),
            **self.latest,
            **self.latest_errors,
        }
