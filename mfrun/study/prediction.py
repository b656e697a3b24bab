"""The law of finite networks, predicted from perturbed limits (:mod:`mfrun.networks.perturbed`).

For every metric m, with m(t) its value in the limit,

    mean over starts of m_n(t) = m(t) + c(t) / n,    variance over starts of m_n(t) = s(t)^2 / n + q(t)^2 / n^2,

q being the deviation of the quadratic term, whose mean is c; it counts where n is small or s is. For the average output
of k networks of width n, c becomes c_k = c_inf + (c - c_inf) / k, c_inf being what all of them have in common and the
rest their variance, and the variance is divided by k. sigma_l(t) / sqrt(n) is how far apart the neurons of
layer l are (the deviation of h_l over its neurons, at some samples), which without types are one in the limit. Where
it grows like exp(lambda t), c grows like exp(2 lambda t), and networks of width n leave the limit at
t_h = ln(n) / (2 lambda) + const.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mfrun.blas import special
from mfrun.config import EXECUTION, PLACES, flatten, parse_width
from mfrun.errors import UserError
from mfrun.files import plain
from mfrun.runs.columns import ASIDE, KEYS
from mfrun.runs.directory import RunDirectory, find_runs
from mfrun.study.horizon import crossing
from mfrun.study.power_law import line

# Linear theory has ended where a perturbation twice as large gives another s or c, by more than this part of it.
NONLINEAR = 0.2
# A growth is called exponential over a range of at least this factor, if the line through its logarithm leaves less.
GREW, RESIDUAL = 4.0, 0.15
# From such a loss on, whose fourth power is no number any more, a limit has diverged.
HUGE = 1e60


@dataclass(frozen=True)
class Growth:
    """Of the distance of a layer's neurons: sigma_l(t) ~ exp(rate t) from ``begin`` to ``end``; NaN where it is not."""

    rate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    begin: float = math.nan
    end: float = math.nan


@dataclass(frozen=True)
class Law:
    """That of one metric, by step.

    Attributes:
        metric: column of metrics.csv.
        frame: ``t``, ``limit`` and its ``limit_bar``, ``c``, ``c_se``, ``common`` (c_inf), ``common_se``, ``s``,
            ``s_se``, ``q``, ``q_se``, and whether linear theory held there (``linear``).
        eps: of the perturbations.
    """

    metric: str
    frame: pd.DataFrame
    eps: float

    def gap(self, n: float, k: float = 1) -> pd.Series:
        """Mean gap to the limit of k averaged networks."""
        f = self.frame
        return (f["common"] + (f["c"] - f["common"]) / k) / n

    def deviation(self, n: float, k: int = 1) -> pd.Series:
        """Standard deviation over starts."""
        return (self.frame["s"] ** 2 / n + self.frame["q"] ** 2 / n**2).pow(0.5) / math.sqrt(k)

    def deviation_error(self, n: float) -> pd.Series:
        """Standard error of that of one network."""
        f, deviation = self.frame, self.deviation(n)
        of_squares = ((f["s"] * f["s_se"] / n) ** 2 + (f["q"] * f["q_se"] / n**2) ** 2).pow(0.5)
        return (of_squares / deviation.where(deviation > 0)).fillna(0.0)

    def band(self, n: float, k: int = 1) -> tuple[pd.Series, pd.Series]:
        """Mean, and half-width of the interval that holds 95 % of all starts, the errors of m and c in it."""
        f = self.frame
        mean = f["limit"] + self.gap(n, k)
        variance = self.deviation(n, k) ** 2 + (f["limit_bar"] / 2) ** 2 + (f["c_se"] / n) ** 2
        return mean, 1.96 * variance.pow(0.5)

    def width_for(self, accuracy: float, step: int, k: int = 1) -> float:
        """The n from which the root mean square gap of k averaged networks stays below an accuracy at a step."""
        row = self.frame.to_dict("index")[step]
        v, w = row["s"] ** 2 / k, self.gap(1, k).to_dict()[step] ** 2 + row["q"] ** 2 / k
        # With x = 1/n: w x^2 + v x = accuracy^2, its positive root; written so that w = 0 is no exception.
        return (v + math.sqrt(v**2 + 4 * w * accuracy**2)) / (2 * accuracy**2)


@dataclass(frozen=True)
class Prediction:
    """What a folder of perturbed limits says.

    Attributes:
        laws: one for each metric.
        layers: sigma_l by t (rows) of the layers (columns) without types.
        growth: of each of them.
        fastest: of the exponential ones, None where there is none.
        groups: of perturbed limits.
        pairs: in all groups.
        config: of the runs.
        lost: the first evaluated step at which a limit has diverged, if one has; nothing is said from there on.
    """

    laws: list[Law]
    layers: pd.DataFrame
    growth: dict[int, Growth]
    groups: int
    pairs: int
    config: dict[str, object]
    lost: int | None = None

    @property
    def fastest(self) -> Growth | None:
        grown = [g for g in self.growth.values() if not math.isnan(g.rate)]
        return max(grown, key=lambda g: g.rate, default=None)


def read(folder: Path, metrics: list[str] | None = None) -> Prediction:
    """The prediction that a folder of ``mfrun predict`` holds.

    Args:
        folder: the limit and its perturbed groups.
        metrics: columns of metrics.csv, all by default.

    Raises:
        UserError: nothing of that kind is there, or not all of it yet, or more than one.
    """
    limits, groups, configs = [], [], list[dict[str, Any]]()
    for run in find_runs(folder):
        keys = flatten(plain(run.config()))
        if keys.get("perturbed"):
            groups.append(Group(_metrics(run), int(keys["predict.pairs"]), int(keys["predict.tested"])))
            configs.append(keys)
        elif math.isinf(parse_width(keys["width"])):
            limits.append(_metrics(run))
    if len(limits) > 1 or any(_computed(keys) != _computed(configs[0]) for keys in configs):
        raise UserError(f"{folder}: holds more than one prediction, or other limits beside it; name the folder of one")
    limit, config = limits[0] if limits else None, configs[-1] if configs else {}
    if len(groups) < 2 or limit is None:
        raise UserError(f"{folder}: no prediction here, or less than two of its groups yet (mfrun predict trains them)")
    eps = float(config["predict.width"]) ** -0.5
    steps = groups[0].steps.intersection(limit.index.unique("step"))
    for group in groups:
        steps = steps.intersection(group.steps)
    whole = functools.reduce(pd.Index.intersection, map(_whole, (limit, *(g.frame for g in groups))))
    lost = min(steps.difference(whole), default=None)
    if lost is not None:
        steps = steps[steps < lost]
        if not len(steps):
            raise UserError(f"{folder}: has diverged at step {lost}, where it began; a smaller alpha may help")
    there = [c for c in map(str, limit) if c not in KEYS and not c.endswith(ASIDE)]
    missing = [m for m in metrics or [] if m not in there]
    if missing:
        raise UserError(f"--metrics {missing[0]}: not logged; there are {', '.join(there)}")
    times = limit["t"].xs(0, level="replicate").reindex(steps)
    laws = [_law(metric, limit, groups, steps, times, eps) for metric in metrics or there]
    layers = _layers(groups, steps, times, eps)
    growth = {int(str(l)): growth_of(groups, steps, times, int(str(l))) for l in layers}
    pairs = sum(g.pairs for g in groups)
    return Prediction(laws, layers, growth, len(groups), pairs, config, lost)


def _computed(keys: dict[str, Any]) -> dict[str, Any]:
    """The keys of a group that all groups of its prediction share, however far each has come."""
    own = ("perturbed", "steps", "predict.groups", *PLACES)
    return {k: v for k, v in keys.items() if k not in own and k.split(".")[0] not in EXECUTION}


def _metrics(run: RunDirectory) -> pd.DataFrame:
    return run.metrics().set_index(["step", "replicate"])


def _whole(frame: pd.DataFrame) -> pd.Index:
    """The steps at which no network of a run has diverged."""
    there = (frame.filter(regex="_loss$").abs() < HUGE).all(axis=1).groupby("step").all()
    return there.index[there]


class Group:
    """One run of perturbed limits: the unperturbed one, mirrored pairs, and some of these twice as large."""

    def __init__(self, frame: pd.DataFrame, pairs: int, tested: int) -> None:
        self.frame, self.pairs, self.tested = frame, pairs, tested
        self.steps = frame.index.unique("step")

    def table(self, column: str, steps: pd.Index) -> np.ndarray:
        """(steps, members)."""
        return self.frame[column].unstack("replicate").reindex(steps).to_numpy()

    def halves(self, values: np.ndarray, twice: bool) -> tuple[np.ndarray, np.ndarray]:
        """Half the difference and half the sum of every pair, (steps, pairs) each."""
        start, count = (1 + 2 * self.pairs, self.tested) if twice else (1, self.pairs)
        plus, minus = (values[:, start + i : start + 2 * count : 2] for i in (0, 1))
        return (plus - minus) / 2, (plus + minus) / 2


def _law(metric: str, limit: pd.DataFrame, groups: list[Group], steps: pd.Index, times: pd.Series, eps: float) -> Law:
    of_groups: dict[str, list[np.ndarray]] = {"c": [], "common": [], "s2": [], "q2": []}
    small, large = [], []
    quadratic = [(g.halves(g.table(metric, steps), twice=False)[1] - g.table(metric, steps)[:, :1]) for g in groups]
    average = np.mean([q.mean(1) for q in quadratic], 0)[:, None]
    for group in groups:
        values = group.table(metric, steps)
        # What is no average of a function of the outputs has no value for an average output.
        paired = group.table(f"{metric}_paired" if f"{metric}_paired" in group.frame else metric, steps)
        base = values[:, :1]
        difference, mean = group.halves(values, twice=False)
        _, of_average = group.halves(paired, twice=False)
        of_groups["s2"].append((difference**2).mean(1) / eps**2)
        of_groups["c"].append((mean - base).mean(1) / eps**2)
        of_groups["q2"].append(((mean - base - average) ** 2).mean(1) / eps**4)
        of_groups["common"].append((of_average - base).mean(1) / eps**2)
        if group.tested:
            again, mean_again = group.halves(values, twice=True)
            tried = slice(0, group.tested)
            small.append(np.stack([(difference[:, tried] ** 2).mean(1), (mean - base)[:, tried].mean(1)]) / eps**2)
            large.append(np.stack([(again**2).mean(1), (mean_again - base).mean(1)]) / (2 * eps) ** 2)
    columns: dict[str, np.ndarray] = {"t": times.to_numpy()}
    one = limit[metric].xs(0, level="replicate").reindex(steps)
    bar = limit[f"{metric}_bar"].xs(0, level="replicate").reindex(steps) if f"{metric}_bar" in limit else 0 * one
    columns |= {"limit": one.to_numpy(), "limit_bar": bar.to_numpy()}
    for name in ("c", "common"):
        columns |= {name: np.mean(of_groups[name], 0), f"{name}_se": _error(of_groups[name])}
    for name in ("s", "q"):
        root, error = np.sqrt(np.mean(of_groups[f"{name}2"], 0)), _error(of_groups[f"{name}2"])
        columns |= {name: root, f"{name}_se": np.divide(error, 2 * root, out=np.zeros_like(root), where=root > 0)}
    frame = pd.DataFrame(columns, index=steps)
    # Without tested pairs nothing has shown that it ends.
    frame["linear"] = _linear(np.array(small), np.array(large)) if small else True
    return Law(metric, frame, eps)


def _error(of_groups: list[np.ndarray]) -> np.ndarray:
    """Standard error of the mean over groups."""
    return np.std(of_groups, axis=0, ddof=1) / math.sqrt(len(of_groups))


def _linear(small: np.ndarray, large: np.ndarray) -> np.ndarray:
    """Whether a perturbation twice as large gives the same s and c, up to the first step at which it does not.

    Args:
        small: (groups, 2, steps), s^2 and c of the tested pairs.
        large: the same from perturbations twice as large.
    """
    differ = np.zeros(small.shape[-1], dtype=bool)
    for i, power in ((0, 2), (1, 1)):
        apart, size = (large - small)[:, i], np.abs(small[:, i].mean(0))
        differ |= np.abs(apart.mean(0)) > power * NONLINEAR * size + _half_width(apart)
    return _until(differ)


def _half_width(of_groups: np.ndarray) -> np.ndarray | float:
    """Of the 95 % interval of the mean over groups; 0 where one says nothing of it."""
    count = len(of_groups)
    return float(special.stdtrit(count - 1, 0.975)) * _error(list(of_groups)) if count > 1 else 0.0


def _until(differ: np.ndarray) -> np.ndarray:
    """The steps before the first of two in a row that differ, or before the last one if that does.

    Of many tests some fail by chance. Once a limit has been left, what is measured later is no response to the start
    any more.
    """
    return ~np.maximum.accumulate(differ & np.append(differ[1:], True))


def _spread(group: Group, l: int, steps: pd.Index, pairs: int | None = None, twice: bool = False) -> np.ndarray:
    """sigma_l of a group, times eps; of so many of its pairs, or of those twice as large."""
    start, count = (1 + 2 * group.pairs, group.tested) if twice else (1, group.pairs if pairs is None else pairs)
    values = group.table(f"spread_{l}", steps)[:, start : start + 2 * count]
    return np.sqrt((values**2).mean(1))


def _spread_is_linear(groups: list[Group], l: int, steps: pd.Index) -> np.ndarray:
    """Up to where perturbations twice as large make neurons differ twice as much.

    The loss says less of it: where perturbations are small, what they do to it is below its rounding for a long time.
    """
    tested = [g for g in groups if g.tested]
    if not tested:
        return np.ones(len(steps), dtype=bool)
    small, large = (
        np.array([np.log(np.maximum(_spread(g, l, steps, g.tested, twice), 1e-300)) for g in tested])
        for twice in (False, True)
    )
    apart = large - small - math.log(2)
    return _until(np.abs(apart.mean(0)) > NONLINEAR + _half_width(apart))


def _layers(groups: list[Group], steps: pd.Index, times: pd.Series, eps: float) -> pd.DataFrame:
    count = sum(str(c).startswith("spread_") for c in groups[0].frame)
    found = {}
    for l in range(1, count + 1):
        values = np.mean([_spread(g, l, steps) for g in groups], 0)
        unperturbed = np.mean([g.table(f"spread_{l}", steps)[:, 0] for g in groups], 0)
        # The neurons of a layer that has types come to differ in the limit as well.
        if (unperturbed <= 0.1 * values).all():
            found[l] = values / eps
    return pd.DataFrame(found, index=pd.Index(times.to_numpy(), name="t"))


def growth_of(groups: list[Group], steps: pd.Index, times: pd.Series, l: int) -> Growth:
    """The rate of exponential growth, over the second half of the range that ln sigma_l runs through while linear."""
    keep = np.asarray(steps > 0) & _spread_is_linear(groups, l, steps)
    t = times.to_numpy()[keep]
    curves = [np.log(np.maximum(_spread(g, l, steps)[keep], 1e-300)) for g in groups]
    mean = np.mean(curves, 0)
    if len(mean) < 4:
        return Growth()
    lowest = int(np.argmin(mean))
    middle = (mean[lowest] + mean[-1]) / 2
    chosen = (np.arange(len(mean)) >= lowest) & (mean >= middle)
    if chosen.sum() < 3 or mean[-1] - mean[lowest] < math.log(GREW):
        return Growth()
    intercept, rate, _ = line(t[chosen], mean[chosen])
    left = np.abs(mean[chosen] - intercept - rate * t[chosen]).max()
    if rate <= 0 or left > RESIDUAL * max(1.0, (mean[-1] - mean[lowest]) / math.log(GREW)):
        return Growth()
    rates = [line(t[chosen], c[chosen])[1] for c in curves]
    half = float(special.stdtrit(len(rates) - 1, 0.975) * np.std(rates, ddof=1)) / math.sqrt(len(rates))
    return Growth(rate, rate - half, rate + half, float(t[chosen][0]), float(t[chosen][-1]))


def horizon(law: Law, n: float, tolerance: float, growth: Growth | None = None) -> tuple[float, bool] | None:
    """When networks of width n leave the limit: their root mean square gap exceeds a tolerance.

    Beyond the times at which linear theory was seen to hold c and q are continued by exp(2 rate t) and s is left as it
    is, if c was seen while neurons grow apart like that.

    Args:
        law: of the metric.
        n: the width.
        tolerance: in the metric's units.
        growth: of the neurons' distance, if it is exponential.

    Returns:
        The time, and whether it is continued; None for never in the run, and where the run does not tell.
    """
    f = law.frame[law.frame["linear"] & (law.frame["t"] > 0)]
    # Where perturbations are small c is divided by little, and at first it is rounding alone; so is q, which has no
    # sign to tell that by. One of many evaluations is beyond two standard errors by chance, two in a row are not.
    seen = law.frame["c"].abs() > 2 * law.frame["c_se"]
    seen &= seen.shift(-1, fill_value=True)
    c, q = (f[name].where(seen.reindex(f.index), 0.0) for name in ("c", "q"))
    gap = ((c / n) ** 2 + (q / n) ** 2 + f["s"] ** 2 / n).pow(0.5)
    left = crossing(gap.to_numpy(), f["t"].to_numpy(), tolerance)
    if left is not None:
        return left, False
    if growth is None or f.empty or c.iloc[-1] == 0 or f["t"].iloc[-1] < growth.begin:
        return None
    last = f.iloc[-1]
    rest, quadratic = tolerance**2 - last["s"] ** 2 / n, math.hypot(last["c"], last["q"])
    return float(last["t"] + math.log(math.sqrt(rest) * n / quadratic) / (2 * growth.rate)), True
