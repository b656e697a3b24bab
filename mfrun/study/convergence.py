"""The distance of finite networks to the limit: the gap over a run, its rate in n, and the horizon.

For a metric m, m_n,r(k) being its value in replicate r of width n at step k and m(k) that of the reference,

    gap of the mean      |average over r of m_n,r(k) - m(k)|       the chance of the start averaged out
    gap of one network   root mean square over r of m_n,r(k) - m(k)

each as its root mean square over the logarithmic grid of steps k >= 1 (the *gap over the run*) or at single steps. The
rate r of gap ~ C n^-r is a least-squares line through log gap against log n. The *horizon* of a width is the first time
at which the gap of one network exceeds a tolerance (:mod:`mfrun.study.horizon`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from mfrun.blas import special
from mfrun.config import stood_label
from mfrun.errors import UserError
from mfrun.study import widths
from mfrun.study.bootstrap import BOOTSTRAPPED, half_width
from mfrun.study.curves import Curve, bar_of_mean, is_limit
from mfrun.study.horizon import Law, crossing, law
from mfrun.study.power_law import power_law


@dataclass
class Gap:
    """One metric of one width against the reference.

    Attributes:
        width: n.
        differences: (steps, replicates), m_n,r(k) - m(k).
        times: t by step.
        reference_bar: half-width of the reference's own 95 % interval by step, beside the mean of the replicates;
            zeros where it has none.
        reference_bar_of_one: the same beside one network, larger where each is held to a reference on its own data.
        neurons: N, where N neurons a layer stand for n.
    """

    width: float
    differences: pd.DataFrame
    times: pd.Series
    reference_bar: pd.Series
    reference_bar_of_one: pd.Series
    neurons: int | None = None

    @property
    def replicates(self) -> int:
        """S."""
        return self.differences.shape[1]

    def of_mean(self) -> pd.Series:
        """Gap of the replicates' mean by step."""
        return self.differences.mean(axis=1).abs()

    def of_one(self) -> pd.Series:
        """Gap of one network by step."""
        return (self.differences**2).mean(axis=1).pow(0.5)

    def noise(self) -> pd.Series:
        """Half-width of the 95 % interval of the mean gap by step, over replicates and the reference's own error.

        NaN for one replicate, which says nothing about the chance of the start.
        """
        if self.replicates == 1:
            return pd.Series(math.nan, self.differences.index)
        return (self._chance(self.replicates) ** 2 + self.reference_bar**2).pow(0.5)

    def _chance(self, replicates: int) -> pd.Series:
        """That part of it that is the chance of the start, were there so many replicates of this deviation."""
        t = float(special.stdtrit(replicates - 1, 0.975))
        return t * self.differences.std(axis=1) / math.sqrt(replicates)

    def mean_flagged(self) -> bool | None:
        """Whether the gap of the mean over the run is below what noise alone would make of it; None for unknown."""
        if self.replicates == 1:
            return None
        return bool(rms(self.of_mean()) <= rms(self.noise()))

    def replicates_to_tell(self) -> int | None:
        """Replicates with which the gap of the mean would be above its noise, if it is what it looks like.

        None where that cannot be said: with one replicate, or where nothing is left of the gap once its chance is taken
        off.
        """
        if self.replicates == 1:
            return None
        chance = rms(self.differences.std(axis=1)) / math.sqrt(self.replicates)
        true = rms(self.of_mean()) ** 2 - chance**2
        # Each next number is a twentieth larger.
        for s in sorted({max(2, round(1.05**k)) for k in range(284)}):
            if rms(self._chance(s)) ** 2 + rms(self.reference_bar) ** 2 < true:
                return s
        return None

    def one_flagged(self) -> bool:
        """Whether the gap of one network over the run is below the reference's own error."""
        return bool(rms(self.of_one()) <= rms(self.reference_bar_of_one))

    def one_at(self, step: int) -> float:
        """Gap of one network at the last evaluation up to a step; NaN before the first and beyond the last."""
        reached = self.of_one().loc[:step]
        return float(reached.iloc[-1]) if len(reached) and step <= self.differences.index[-1] else math.nan

    def horizon(self, tolerance: float) -> tuple[int, float] | None:
        """(step, t) at which the gap of one network first exceeds the tolerance; None for never."""
        t = crossing(self.of_one().to_numpy(), self.t, tolerance)
        if t is None:
            return None
        last = self.differences.index[-1]
        return round(t / float(self.times[last]) * int(last)), t

    @property
    def t(self) -> np.ndarray:
        """Times of the evaluations."""
        return self.times.loc[self.differences.index].to_numpy(dtype=float)


@dataclass
class Fit:
    """gap ~ C n^-rate, with a 95 % confidence interval of the rate, NaN where nothing can be said.

    Attributes:
        source: what the interval rests on: ``replicates`` (bootstrap) or ``residuals`` (of the line).
        why: there is no rate, in a few words.
    """

    rate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    C: float = math.nan
    source: str = ""
    why: str = ""


@dataclass
class Study:
    """A metric of one setting: every width against the reference.

    Attributes:
        tolerance: of the horizon, in the metric's units; NaN for a fraction of the range of a reference that does not
            move, so that nothing is known of horizons.
        samples_error: largest standard error of the reference's averages over the evaluation's samples, which all
            widths of one ``seed.eval`` share; 0 where no run says.
        unlike: the keys by which widths have other samples or batches than the reference, so that the chance of these
            is in the gaps, with their values.
        diverged: the widths that have, for good.
        doubtful: between which steps the limit's bar may be too short (:func:`mfrun.runs.columns.doubtful`).
    """

    metric: str
    setting: dict[str, object]
    reference: str
    gaps: list[Gap]
    tolerance: float
    samples_error: float = 0.0
    unlike: dict[str, list[str]] = field(default_factory=dict)
    diverged: list[str] = field(default_factory=list)
    doubtful: tuple[int, int] | None = None
    fit_mean: Fit = field(default_factory=Fit)
    fit_one: Fit = field(default_factory=Fit)
    law: Law = field(default_factory=Law)

    @property
    def has_tolerance(self) -> bool:
        """Whether there is a tolerance to hold gaps to."""
        return not math.isnan(self.tolerance)

    @property
    def drowns(self) -> bool:
        """Whether the horizon's tolerance is below the reference's own error, so that horizons say nothing."""
        return self.tolerance < rms(self.gaps[0].reference_bar_of_one)

    @property
    def last(self) -> int:
        """The last step that is compared."""
        return int(self.gaps[0].differences.index[-1])


def study(
    curves: list[Curve], metric: str, tolerance: float, absolute: bool, setting: dict[str, object] | None = None
) -> Study:
    """Hold all curves of one setting to the limit, or to the largest width where there is no limit.

    Args:
        curves: of one setting.
        metric: a column of metrics.csv.
        tolerance: of the horizon, as a fraction of the range that the reference runs through, or absolute.
        absolute: which of the two.
        setting: what it is called; by default what the curves say.

    Raises:
        UserError: fewer than two widths, or no step that all of them have.
    """
    having = [c for c in curves if metric in c.metrics()]
    if len(having) < 2:
        few = "a comparison needs at least two widths with one setting" if having else "not logged with this setting"
        raise UserError(f"metric {metric}: {few}")
    curves = sorted(_at_equal_samples(having), key=lambda c: (c.width, c.neurons or 0))
    # Of the largest width the truth is its real networks, or the most neurons that stand for it.
    largest = max(curves, key=lambda c: (c.width, c.neurons or math.inf))
    finite = [c for c in curves if c is not largest]
    reference = _Reference(largest, metric)
    gaps = []
    for curve in finite:
        values = curve.table(metric)
        steps = values.index.intersection(reference.mean.index)
        steps = steps[steps > 0]
        on_data = list(values.columns.get_level_values("data"))
        differences = values.loc[steps] - reference.values(on_data, steps)
        differences = differences.dropna()
        if differences.empty:
            continue
        bars = [bar.loc[differences.index].fillna(0.0) for bar in reference.bars(on_data)]
        gaps.append(Gap(curve.width, differences, curve.times(), bars[0], bars[1], curve.neurons))
    # Widths of one table are compared over one stretch of time.
    common = sorted(set.intersection(*(set(g.differences.index) for g in gaps))) if gaps else []
    if not common:
        raise UserError(f"metric {metric}: the runs have no evaluated step in common yet")
    for gap in gaps:
        gap.differences, gap.reference_bar = gap.differences.loc[common], gap.reference_bar.loc[common]
        gap.reference_bar_of_one = gap.reference_bar_of_one.loc[common]
    mean = reference.mean.loc[common]
    scale = 1.0 if absolute else float(mean.max() - mean.min()) or math.nan
    called = curves[0].setting if setting is None else setting
    label = stood_label(largest.width, largest.neurons)
    result = Study(metric, called, label, gaps, tolerance * scale)
    error = largest.standard_error(metric)
    if error is not None:
        result.samples_error = float(error.reindex(common).max())
    result.unlike = _unlike([*finite, largest])
    result.doubtful = largest.doubtful()
    result.diverged = [stood_label(c.width, c.neurons) for c in curves if c.diverged()]
    kept = widths.once((g.width, g.neurons) for g in gaps)
    once = [g for g in gaps if (g.width, g.neurons) in kept and g.width < largest.width]
    result.fit_mean, result.fit_one = _fit_of_mean(once), fit(once, _one_over_run)
    n = np.array([g.width for g in once], dtype=float)
    result.law = law(n, [g.differences.to_numpy() for g in once], [g.t for g in once], result.tolerance)
    return result


class _Reference:
    """What the curves are held to, on the data of each of its replicates where these differ.

    Args:
        curve: the limit, or the largest width.
        metric: a column of metrics.csv.
    """

    def __init__(self, curve: Curve, metric: str) -> None:
        table, bars = curve.table(metric), curve.bars(metric)
        # Limits have an error each, and go on alone; where a network has diverged, the mean is no mean of all any more.
        self._skips = is_limit(curve)
        self.mean = table.mean(axis=1, skipna=self._skips)
        self._on = {str(data): group.T for data, group in table.T.groupby(level="data")}
        self._bars = {data: self._bar(group, bars) for data, group in self._on.items()}

    @staticmethod
    def _bar(group: pd.DataFrame, bars: pd.DataFrame | None) -> pd.Series:
        """Half-width of the 95 % interval of the mean on one order of the data, by step.

        Of a finite width it is that of the chance of the start, over its replicates; of a single one nothing is known
        of that, and where every replicate has data of its own it is in the spread of the differences already.
        """
        if bars is not None:
            return bar_of_mean(bars.reindex(columns=group.columns))
        count = group.notna().sum(axis=1)
        half = group.std(axis=1) / count.pow(0.5) * special.stdtrit(count.clip(lower=2) - 1, 0.975)
        return half.fillna(0.0)

    def values(self, on_data: list[str], steps: pd.Index) -> np.ndarray:
        """(steps, networks), for each network on its own data where the reference has seen these."""
        on = {data: table.mean(axis=1, skipna=self._skips) for data, table in self._on.items()}
        found = [on.get(data, self.mean) for data in on_data]
        return np.stack([one.loc[steps].to_numpy() for one in found], 1)

    def bars(self, on_data: list[str]) -> tuple[pd.Series, pd.Series]:
        """Half-width of the reference's 95 % interval by step: of the mean over networks, and of one of them."""
        every = pd.DataFrame(self._bars).fillna(0.0)
        shares = pd.DataFrame({i: _share(data, list(self._bars)) for i, data in enumerate(on_data)}, list(self._bars))
        of_each = (every**2) @ (shares**2)
        return ((every**2) @ (shares.mean(axis=1) ** 2)).pow(0.5), of_each.mean(axis=1).pow(0.5)


def _share(data: str, there: list[str]) -> list[float]:
    """How much each order of the data counts in what one network is held to."""
    return [float(data == one) if data in there else 1 / len(there) for one in there]


def _at_equal_samples(curves: list[Curve]) -> list[Curve]:
    """The curves at one seed.eval, each that has it: the one that most widths have, and of several the least.

    The same network at other samples is no further network, and its difference to the reference at these holds their
    chance.
    """
    having = Counter(seed for c in curves for seed in {s.evaluated for s in c.sources})
    chosen = min(having, key=lambda seed: (-having[seed], seed))
    alike = [[s for s in c.sources if s.evaluated == chosen] for c in curves]
    return [replace(c, sources=some or c.sources) for c, some in zip(curves, alike, strict=True)]


def _unlike(curves: list[Curve]) -> dict[str, list[str]]:
    """The keys in which the curves have other samples or batches than the reference, the last of them, and how."""
    found: dict[str, list[str]] = {}
    for key, of in (("seed.eval", "evaluated"), ("seed.data", "data")):
        there = [{getattr(source, of) for source in curve.sources} for curve in curves]
        if any(not seeds <= there[-1] for seeds in there):
            found[key] = [str(seed) for seed in sorted(set().union(*there))]
    orders = [{data for source in curve.sources for data, _ in source.labels()} for curve in curves]
    if "seed.data" not in found and any(not some <= orders[-1] for some in orders):
        kinds = sorted({"independent" if s.independent else "shared" for c in curves for s in c.sources}, reverse=True)
        found["replicate_data"] = kinds if len(kinds) > 1 else [f"{kinds[0]} in more replicates than the reference has"]
    return found


def _fit_of_mean(gaps: list[Gap]) -> Fit:
    """The rate of the mean's gap, where it is more than the chance of the start."""
    if gaps and all(g.replicates == 1 for g in gaps):
        return Fit(why="with one replicate it is that of one network")
    # A bootstrap says in its interval what is not known; fewer replicates than it needs do not.
    few = any(g.replicates < BOOTSTRAPPED for g in gaps)
    if few and sum(g.mean_flagged() is False for g in gaps) < 2:
        return Fit(why="fewer than two widths have a gap above the noise")
    return fit(gaps, _mean_over_run)


def fit(gaps: list[Gap], measure: Callable[[np.ndarray], float]) -> Fit:
    """Rate of a gap in n, by least squares of log gap on log n.

    The interval comes from a bootstrap over replicates where every width has at least four of them, else from the
    line's residuals (at least three widths). The reference's own error is not in it; it is what the flags are for.
    """
    n = np.array([g.width for g in gaps], dtype=float)
    differences = [g.differences.to_numpy() for g in gaps]
    values = np.array([measure(m) for m in differences])
    if len(set(n)) < 2:
        return Fit(why="a rate needs two widths beside the reference")
    if not (values > 0).all():
        return Fit(why="a gap is 0")
    law = power_law(n.tolist(), values.tolist())
    result = Fit(rate=-law.exponent, C=law.C)
    if min(g.replicates for g in gaps) >= BOOTSTRAPPED:
        with np.errstate(divide="ignore"):
            half = half_width(np.log(n), differences, [lambda d: float(np.log(measure(d)))] * len(n))
        result.low, result.high, result.source = result.rate - half, result.rate + half, "replicates"
    elif len(gaps) >= 3:
        result.low, result.high, result.source = -law.high, -law.low, "residuals"
    return result


def rms(values: pd.Series) -> float:
    """Root mean square over the grid."""
    return float(np.sqrt((values**2).mean()))


def _mean_over_run(differences: np.ndarray) -> float:
    """Gap of the mean over the run, from (steps, replicates)."""
    return float(np.sqrt((differences.mean(axis=1) ** 2).mean()))


def _one_over_run(differences: np.ndarray) -> float:
    """Gap of one network over the run, from (steps, replicates)."""
    return float(np.sqrt((differences**2).mean()))


@dataclass(frozen=True)
class Marks:
    """Where gaps are listed, by step and by time; the rates of two settings reach one time at different steps.

    Attributes:
        steps: k.
        times: t.
    """

    steps: list[int]
    times: list[float]

    def of(self, s: Study) -> dict[str, int]:
        """The steps of a setting by what they are called; a time beyond its run is the step behind its last.

        A time before the first evaluation is step 0, of which there is no gap.
        """
        found = {f"k={k}": k for k in self.steps}
        for time in self.times:
            t = s.gaps[0].times.loc[s.gaps[0].differences.index]
            reached = t[t <= time * (1 + 1e-9)].index
            last = int(t.index[-1])
            beyond = time > float(t.iloc[-1]) * (1 + 1e-9)
            found[f"t={time:g}"] = last + 1 if beyond else int(reached[-1]) if len(reached) else 0
        return found


def table(studies: list[Study], marks: Marks) -> pd.DataFrame:
    """One row for each setting, metric and width: gaps over the run and at chosen steps, rate, horizon."""
    rows = []
    for s in studies:
        never = "never" if s.has_tolerance else "?"
        for g in s.gaps:
            mean, one = g.of_mean(), g.of_one()
            horizon = g.horizon(s.tolerance)
            row: dict[str, object] = {**s.setting, "metric": s.metric, "reference": s.reference, "width": int(g.width)}
            row |= {
                "neurons": g.neurons,
                "replicates": g.replicates,
                "gap_of_mean": rms(mean),
                "noise": rms(g.noise()),
                "mean_flagged": g.mean_flagged(),
                "gap_of_one": rms(one),
                "one_flagged": g.one_flagged(),
                "reference_bar": rms(g.reference_bar),
                "horizon_t": horizon[1] if horizon else never,
                "horizon_step": horizon[0] if horizon else never,
                "tolerance": s.tolerance,
                "last_step": int(one.index[-1]),
            }
            for name, f in (("mean", s.fit_mean), ("one", s.fit_one)):
                row |= {f"rate_of_{name}": f.rate, f"rate_of_{name}_low": f.low, f"rate_of_{name}_high": f.high}
            row |= {"horizon_slope": s.law.b, "horizon_slope_low": s.law.low, "horizon_slope_high": s.law.high}
            for name, step in marks.of(s).items():
                row[f"gap_of_one_at_{name.removeprefix('k=')}"] = g.one_at(step)
            rows.append(row)
    return pd.DataFrame(rows)
