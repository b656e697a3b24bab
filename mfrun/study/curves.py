"""The learning curves of finished and unfinished runs, read from their directories and put into groups."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from mfrun.config import flatten, parse_width, width_label
from mfrun.errors import ConfigError, UserError
from mfrun.run import find_runs, newest

# Differences between runs that are repetitions, not settings.
REPEATED = ("seed.init", "seed.data", "seed.eval", "replicates", "replicate_data", "steps")
# Panels in the paper's order, with its titles.
TITLES = {
    "train_loss": "Training loss",
    "test_loss": "Test loss",
    "train_error": "Training error",
    "test_error": "Test error",
    "population_loss": "Population loss",
    "population_error": "Classification error",
}


@dataclass
class Curve:
    """All replicates of one width with one setting of the other keys, over one or more runs.

    Attributes:
        width: n, or ``math.inf``.
        setting: the keys, other than the width, in which the compared runs differ.
        frames: metrics of each run.
    """

    width: float
    setting: dict[str, Any]
    frames: list[pd.DataFrame] = field(default_factory=list)

    @property
    def label(self) -> str:
        """``400`` or ``inf``."""
        return width_label(self.width)

    def metrics(self) -> list[str]:
        """Columns that hold a metric."""
        skipped = ("step", "t", "replicate", "wall_seconds")
        return [c for c in map(str, self.frames[0]) if c not in skipped and not c.endswith("_bar")]

    def table(self, metric: str) -> pd.DataFrame:
        """The metric by step (rows) and replicate (columns, numbered through over the runs)."""
        pivots = [f.pivot(index="step", columns="replicate", values=metric) for f in self.frames if metric in f]
        if not pivots:
            raise UserError(f"metric {metric}: not logged; there are {', '.join(self.metrics())}")
        joined = pd.concat(pivots, axis=1)
        joined.columns = pd.RangeIndex(joined.shape[1])
        return joined.sort_index()

    def bar(self, metric: str) -> pd.Series | None:
        """Half-width of the limit's own 95 % interval by step; None for finite widths."""
        bars = [
            f.pivot(index="step", columns="replicate", values=f"{metric}_bar")
            for f in self.frames
            if f"{metric}_bar" in f
        ]
        if not bars:
            return None
        # Averages of independent replicates: their intervals shrink with the root of their number.
        every = pd.concat(bars, axis=1)
        return (every**2).sum(axis=1).pow(0.5) / every.shape[1]

    def times(self) -> pd.Series:
        """Time t by step."""
        every = pd.concat([f[["step", "t"]] for f in self.frames]).drop_duplicates("step")
        return every.set_index("step")["t"].sort_index()


def load(paths: list[str], latest: bool) -> tuple[list[Curve], Path]:
    """The curves of every run in or below the paths.

    Args:
        paths: runs, sweeps, or folders of them.
        latest: take the newest run or sweep below ``outputs`` (or below the one path that is given).

    Returns:
        The curves, by setting and then by width, and the folder that pictures of them belong to.

    Raises:
        UserError: nothing there, or no run with a row yet.
    """
    if latest:
        paths = [str(newest(*paths[:1]))]
    if not paths:
        raise UserError("no run or sweep named; give its folder, or --latest")
    runs = list({run.path.resolve(): run for path in paths for run in find_runs(path)}.values())
    loaded = []
    for run in runs:
        plain = OmegaConf.to_container(run.config())
        if not isinstance(plain, dict) or "width" not in plain:
            raise UserError(f"{run.path}: its configuration is not one of mfrun")
        try:
            width = parse_width(plain["width"])
        except ConfigError as error:
            raise UserError(f"{run.path}: {error}") from error
        frame = run.metrics()
        if len(frame):
            loaded.append((width, flatten({str(k): v for k, v in plain.items()}), frame))
    if not loaded:
        raise UserError(f"{', '.join(paths)}: no run here has written a row yet")
    settings = [
        {k: v for k, v in flat.items() if k not in (*REPEATED, "width", "widths") and not k.startswith("particles.")}
        for _, flat, _ in loaded
    ]
    varying = [
        key for key in dict.fromkeys(k for s in settings for k in s) if len({repr(s.get(key)) for s in settings}) > 1
    ]
    curves: dict[tuple[str, float], Curve] = {}
    for (width, _, frame), setting in zip(loaded, settings, strict=True):
        # A key that one of the runs does not have (another schedule's, say) says nothing about it.
        shown = {k: setting[k] for k in varying if k in setting}
        curves.setdefault((repr(shown), width), Curve(width, shown)).frames.append(frame)
    # Settings stay in the order in which their runs were found.
    order = {key: i for i, key in enumerate(dict.fromkeys(key for key, _ in curves))}
    folder = Path(paths[0]) if len(paths) == 1 else Path()
    return [curves[k] for k in sorted(curves, key=lambda k: (order[k[0]], k[1]))], folder


def describe(setting: dict[str, Any], keys: list[str] | None = None) -> str:
    """``tau2=0.1, activation=relu``: the setting in short names."""
    parts = []
    for key, value in setting.items():
        if keys is not None and key not in keys:
            continue
        short = key.removesuffix(".name").rpartition(".")[2] if not key.endswith("dataset.name") else "dataset"
        parts.append(f"{short}={value:g}" if isinstance(value, float) else f"{short}={value}")
    return ", ".join(parts)


def default_metrics(curves: list[Curve]) -> list[str]:
    """The paper's panels, as far as they are logged."""
    logged = {m for c in curves for m in c.metrics()}
    return [m for m in TITLES if m in logged]


def choose_metrics(curves: list[Curve], wanted: str | None) -> list[str]:
    """The metrics of a comma-separated list; ``nonpositive`` stands for those of all layers.

    Raises:
        UserError: one of them is not logged.
    """
    if wanted is None:
        return default_metrics(curves)
    logged = list(dict.fromkeys(m for c in curves for m in c.metrics()))
    chosen = []
    for name in wanted.split(","):
        found = [m for m in logged if m == name] or [m for m in logged if m.startswith((f"{name}_",))]
        if not found:
            raise UserError(f"--metrics {name}: not logged; there are {', '.join(logged)}")
        chosen += found
    return chosen


def title(metric: str) -> str:
    """A panel's title."""
    if metric.startswith("nonpositive_"):
        return f"Fraction of $h_{{{metric.rpartition('_')[2]}}} \\leq 0$"
    split, _, name = metric.partition("_")
    return TITLES.get(metric, f"{split.capitalize()} {name.replace('_', ' ')}")


def is_limit(curve: Curve) -> bool:
    """Whether this is the curve of n = infinity."""
    return math.isinf(curve.width)
