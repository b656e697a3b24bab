"""The learning curves of finished and unfinished runs, read from their directories and put into groups."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mfrun.config import ROOTS, flatten, parse_width, width_label
from mfrun.errors import ConfigError, UserError, typed
from mfrun.files import plain
from mfrun.registry import create
from mfrun.runs.columns import ASIDE, KEYS, doubtful
from mfrun.runs.directory import DONE, METRICS, RunDirectory, find_runs, newest

# Differences between runs that are repetitions, not settings, or that change no number.
SEEDS = ("seed.init", "seed.data", "seed.eval", "replicates", "replicate_data")
REPEATED = (*SEEDS, *ROOTS, "steps", "evaluation.kernels", "evaluation.test_functions")
# Groups whose keys are named whole: `width` alone is the network's, not a teacher's.
NAMED_WHOLE = ("dataset", "particles", "stand_in", "evaluation")
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
class Source:
    """One run behind a curve.

    Attributes:
        run: its folder.
        frame: its metrics.
        init: ``seed.init``.
        data: ``seed.data``.
        evaluated: ``seed.eval``.
        independent: whether every replicate saw data of its own.
    """

    run: RunDirectory
    frame: pd.DataFrame
    init: int
    data: int
    evaluated: int
    independent: bool

    def table(self, column: str) -> pd.DataFrame:
        """A column by step (rows) and (data, init) (columns): what tells one replicate of any run from another."""
        pivot = self.frame.pivot(index="step", columns="replicate", values=column)
        pivot.columns = pd.MultiIndex.from_tuples(self.labels(), names=["data", "init"])
        return pivot

    def labels(self) -> list[tuple[str, str]]:
        """Data and init of each replicate, in order."""
        replicates = sorted(self.frame["replicate"].unique())
        return [(f"{self.data}/{r if self.independent else 0}", f"{self.init}/{r}") for r in replicates]


@dataclass
class Curve:
    """All replicates of one width with one setting of the other keys, over one or more runs.

    Attributes:
        width: n, or ``math.inf``.
        setting: the keys, other than the width, in which the compared runs differ; in the place of a component's name
            the option of its group that was chosen, where that is called otherwise.
        sources: the runs.
        neurons: N, where N neurons a layer stand for n; None where the networks are real, or the limit.
    """

    width: float
    setting: dict[str, Any]
    sources: list[Source] = field(default_factory=list)
    neurons: int | None = None

    @property
    def label(self) -> str:
        """``400`` or ``inf``."""
        return width_label(self.width)

    def diverged(self) -> bool:
        """Whether a run behind it has, for good."""
        return any(source.run.status()["state"] == "diverged" for source in self.sources)

    def metrics(self) -> list[str]:
        """Columns that hold a metric, in any of the runs."""
        columns = dict.fromkeys(str(c) for source in self.sources for c in source.frame)
        return [c for c in columns if c not in KEYS and not c.endswith(ASIDE)]

    def table(self, metric: str) -> pd.DataFrame:
        """The metric by step (rows) and replicate (columns, labelled by data and init). What diverged is NaN."""
        found = self._tables(metric)
        if not found:
            raise UserError(f"metric {metric}: not logged; there are {', '.join(self.metrics())}")
        return found[0].replace([math.inf, -math.inf], math.nan)

    def bar(self, metric: str) -> pd.Series | None:
        """Half-width of the limit's own 95 % interval by step; None for finite widths."""
        found = self.bars(metric)
        return None if found is None else bar_of_mean(found)

    def bars(self, metric: str) -> pd.DataFrame | None:
        """The same of each replicate."""
        found = self._tables(f"{metric}_bar")
        return found[0] if found else None

    def doubtful(self) -> tuple[int, int] | None:
        """Between which steps the limit's bar may be too short; None for nowhere, and for finite widths."""
        found = [steps for source in self.sources if (steps := doubtful(source.frame)) is not None]
        return (min(first for first, _ in found), max(last for _, last in found)) if found else None

    def standard_error(self, metric: str) -> pd.Series | None:
        """That of the average over the evaluation's samples by step; None in runs that are older than the column.

        All replicates and widths are evaluated at the same samples, so it does not shrink with their number.
        """
        found = self._tables(f"{metric}_se")
        return found[0].mean(axis=1) if found else None

    def drawn(self, metric: str) -> tuple[pd.Series, pd.Series | None]:
        """What a picture shows of it, by step: the mean over replicates, and the half-width of the band around it.

        The band is the limit's own bar, or one standard deviation over replicates; None where there is one replicate.
        """
        values = self.table(metric)
        # Where a replicate has diverged the mean is no mean of all of them any more: the curve ends there.
        mean = values.mean(axis=1, skipna=False)
        if is_limit(self):
            spread = self.bar(metric)
            return mean, None if spread is None else spread.reindex(values.index)
        return mean, values.std(axis=1) if values.shape[1] > 1 else None

    def _tables(self, column: str) -> list[pd.DataFrame]:
        """The runs' tables side by side, or nothing. Runs that repeat each other count once, as the longest of them."""
        tables = [s.table(column) for s in self.sources if column in s.frame]
        if not tables:
            return []
        tables.sort(key=len, reverse=True)
        joined = pd.concat(tables, axis=1).sort_index()
        return [joined.loc[:, ~joined.columns.duplicated()]]

    def times(self) -> pd.Series:
        """Time t by step."""
        every = pd.concat([s.frame[["step", "t"]] for s in self.sources]).drop_duplicates("step")
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
        paths = [str(newest(paths[0] if paths else "outputs"))]
    if not paths:
        raise UserError("no run or sweep named; give its folder, or --latest")
    runs = list({run.path.resolve(): run for path in paths for run in find_runs(path)}.values())
    loaded = []
    for run in runs:
        keys = plain(run.config())
        # Perturbed limits are no networks that anybody would train for their own sake.
        if keys.get("perturbed"):
            continue
        try:
            width = parse_width(keys["width"])
        except ConfigError as error:
            raise UserError(f"{run.path}: {error}") from error
        frame = run.metrics()
        if frame.empty and run.status()["state"] in DONE:
            print(f"mfrun: {run.path}: left out: its {METRICS} is missing or empty", file=sys.stderr)
        if len(frame):
            loaded.append((run, width, flatten(keys), _until_it_diverged(frame)))
    if not loaded:
        raise UserError(f"{', '.join(paths)}: no run here has written a row yet")
    settings = [_setting(flat) for _, _, flat, _ in loaded]
    # A key that some runs do not have (the particles of finite widths, another schedule's) says nothing about them.
    values: dict[str, set[str]] = {}
    for setting in settings:
        for key, value in setting.items():
            values.setdefault(key, set()).add(repr(value))
    # A width that is stood for stays beside the real networks of that width.
    curves: dict[tuple[str, float, int], Curve] = {}
    for (run, width, flat, frame), setting in zip(loaded, settings, strict=True):
        shown = {k: v for k, v in setting.items() if len(values[k]) > 1}
        init, data, evaluated = (int(flat.get(f"seed.{of}", 0)) for of in ("init", "data", "eval"))
        source = Source(run, frame, init, data, evaluated, flat.get("replicate_data") == "independent")
        neurons = flat.get("neurons")
        curve = curves.setdefault((repr(shown), width, neurons or 0), Curve(width, shown, neurons=neurons))
        curve.sources.append(source)
    # Settings stay in the order in which their runs were found.
    order = {key: i for i, key in enumerate(dict.fromkeys(key for key, _, _ in curves))}
    folder = Path(paths[0]) if len(paths) == 1 else Path()
    found = [curves[k] for k in sorted(curves, key=lambda k: (order[k[0]], *k[1:]))]
    _say_what_was_chosen(found)
    return found, folder


def _say_what_was_chosen(curves: list[Curve]) -> None:
    """Name components as their options are typed, where these are called otherwise: init=normal, not init.name=iid.

    A name stays where a run does not tell what was chosen, or where what is one setting was asked for in several ways.
    """
    for key in dict.fromkeys(k for c in curves for k in c.setting if k.endswith(".name")):
        group, options = key.removesuffix(".name"), dict[str, set[str | None]]()
        having = [c for c in curves if key in c.setting]
        # Options of a group may be the same component with other keys.
        alike = [repr({k: v for k, v in c.setting.items() if k.startswith(f"{group}.")}) for c in having]
        for curve, one in zip(having, alike, strict=True):
            options.setdefault(one, set()).update(source.run.choices().get(group) for source in curve.sources)
        if any(len(some) > 1 or None in some for some in options.values()):
            continue
        chosen = [next(iter(options[one])) for one in alike]
        if all(option == curve.setting[key] for option, curve in zip(chosen, having, strict=True)):
            continue
        for curve, option in zip(having, chosen, strict=True):
            curve.setting = {**{group if k == key else k: v for k, v in curve.setting.items()}, group: option}


def _until_it_diverged(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of a run, without numbers where a loss is none: an argmax of NaN is a class, and its error a share."""
    losses = [c for c in frame if str(c).endswith("_loss")]
    measured = [c for c in frame if c not in KEYS]
    lost = ~np.isfinite(frame[losses].to_numpy(dtype=float)).all(axis=1)
    return frame.assign(**{str(c): frame[c].mask(lost) for c in measured}) if lost.any() else frame


def _setting(flat: dict[str, Any]) -> dict[str, Any]:
    """The keys of a run that are settings, not repetitions of one."""
    # A longer run continues a shorter one, unless its schedule stretches with it.
    left_out = [k for k in REPEATED if not (k == "steps" and _stretches(flat))]
    return {k: v for k, v in flat.items() if k not in (*left_out, "width", "widths")}


def _stretches(flat: dict[str, Any]) -> bool:
    """Whether a run's schedule depends on the length of the run, as one of the user's own may."""
    node = {k.removeprefix("schedule."): v for k, v in flat.items() if k.startswith("schedule.")}
    # A class of the user's own is not imported only because a run's folder names it.
    if ":" in str(node.get("name")):
        return True
    try:
        return bool(create("schedule", node, "schedule").needs_end)
    except ConfigError:
        return False


def settings_of(curves: list[Curve]) -> list[dict[str, Any]]:
    """The settings that there are; what all of several have in common is no setting of its own."""
    settings = list({repr(c.setting): c.setting for c in curves}.values())
    return [s for s in settings if not any(s.items() < other.items() for other in settings)] or settings


def alike(curves: list[Curve], setting: dict[str, Any]) -> list[Curve]:
    """The curves of a setting, and those that lack some of its keys, as real networks lack those of stand-ins."""
    return [c for c in curves if all(key in setting and setting[key] == value for key, value in c.setting.items())]


def describe(setting: dict[str, Any], keys: list[str] | None = None) -> str:
    """``tau2=0.1, activation=relu``: the setting in short names."""
    parts = []
    for key, value in setting.items():
        if keys is not None and key not in keys:
            continue
        whole = key.removesuffix(".name")
        short = whole if whole.startswith(NAMED_WHOLE) else whole.rpartition(".")[2]
        parts.append(f"{short}={value:g}" if isinstance(value, float) else f"{short}={typed(value)}")
    return ", ".join(parts)


def default_metrics(curves: list[Curve]) -> list[str]:
    """The paper's panels, as far as they are logged, and the losses and errors of other splits."""
    logged = dict.fromkeys(m for c in curves for m in c.metrics())
    others = [m for m in logged if m not in TITLES and m.endswith(("_loss", "_error"))]
    return [m for m in TITLES if m in logged] + others


def unseen_loss(curves: list[Curve]) -> str:
    """The loss on samples that training has not seen: of the population where it is known, else of the test set."""
    return next(m for m in ("population_loss", "test_loss") if m in curves[0].metrics())


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
    if metric.startswith(("types_", "alignment_")):
        name, _, layer = metric.partition("_")
        return f"{name.capitalize()} of layer {layer}"
    split, _, name = metric.partition("_")
    return TITLES.get(metric, f"{split.capitalize()} average of {name}" if name else metric)


def bar_of_mean(bars: pd.DataFrame) -> pd.Series:
    """Half-width of the interval of the mean of independent replicates by step, from those of each (columns).

    It shrinks with the root of the number of those that there are.
    """
    return (bars**2).sum(axis=1).pow(0.5) / bars.notna().sum(axis=1)


def is_limit(curve: Curve) -> bool:
    """Whether this is the curve of n = infinity."""
    return math.isinf(curve.width)
