"""Whether a run may go on: it has to be the one that was started, and on the same data."""

from __future__ import annotations

from typing import Any

import numpy as np
from omegaconf import OmegaConf

from mfrun.config import BEFORE, EXECUTION, PATHS, PLACES, Config, flatten
from mfrun.dynamics.experiment import Experiment
from mfrun.errors import ConfigError, typed
from mfrun.runs.columns import ASIDE
from mfrun.runs.directory import RunDirectory

# Columns that count samples, which another processor may class differently.
ERRORS = tuple(f"_error{ending}" for ending in ("", *ASIDE))


def refuse_changes(run: RunDirectory, content: dict[str, Any], growing: bool) -> dict[str, Any]:
    """Hold the keys of a resumed run to those that it was started with; ``steps`` may grow, and the data have moved.

    Returns:
        The keys by which the data have, with their values now.

    Raises:
        ConfigError: it would not be the run that was started.
    """
    saved = OmegaConf.to_container(run.config())
    # A key that is younger than the run had its default's value then.
    older = OmegaConf.to_container(OmegaConf.structured(Config))
    assert isinstance(saved, dict)
    assert isinstance(older, dict)
    now = flatten(content)
    defaults = {k: v for k, v in (flatten({str(k): v for k, v in older.items()}) | BEFORE).items() if k in now}
    before = defaults | flatten({str(k): v for k, v in saved.items()})
    moved = {key: now[key] for key in PLACES if key in now and before.get(key) != now[key]}
    for key in [*now, *(k for k in before if k not in now)]:
        if key in moved or key.split(".")[0] in EXECUTION or before.get(key) == now.get(key):
            continue
        if key == "steps" and growing and now[key] > before[key]:
            continue
        was = typed(before.get(key))
        only = "only a longer steps=, or a larger budget= of it, may change what a run computes on resume=true"
        why = f"{run.path} was started with {key}={was}; {only}"
        if key == "steps" and not growing:
            why = f"{run.path} was started with steps={before.get(key)}, and its schedule depends on them"
        raise ConfigError(key, now.get(key), why)
    return moved


def own_data(content: dict[str, Any]) -> dict[str, Any]:
    """The keys, with their values, that name data of the user's own, which may have become others."""
    now = flatten(content)
    own = ("dataset.name",) if ":" in str(now["dataset.name"]) else PATHS
    return {key: now[key] for key in own if key in now}


def refuse_other_data(experiment: Experiment, run: RunDirectory, keys: dict[str, Any]) -> None:
    """Hold the data to what the run has measured on them, at its newest state where that was evaluated, else at step 0.

    Args:
        experiment: what the run consists of, with the data as they are now.
        run: its folder.
        keys: that name the data or their place, with their values now.

    Raises:
        ConfigError: they are others.
    """
    # Damaged states are told of by the run that goes on from another.
    network, rows, found = experiment.network(), run.metrics(), run.load_state(warn=bool)
    step = 0
    if found is not None and (rows["step"] == found[1]["step"]).any():
        network.load(found[0])
        step = found[1]["step"]
    before = rows[rows["step"] == step]
    if len(before) != experiment.replicates:
        return
    now = experiment.over_sets(experiment.evaluator()(network))
    rounding = 1e-3 if experiment.cfg.precision == "float32" else 2e-2
    for name in (column for column in now if column in before):
        # One sample in a thousand may be.
        apart = 1e-3 if name.endswith(ERRORS) else 1e-6
        if not np.allclose(now[name], before[name], rtol=rounding, atol=apart, equal_nan=True):
            was = f"{name} at step {step} is {now[name][0]:.6g} on them and was {float(before[name].iloc[0]):.6g}"
            raise ConfigError(*next(iter(keys.items())), f"not the data that the run was started on: {was}")
