"""What the paper says of its figures, and what runs of them measure of it, with a verdict.

Verdicts are *confirmed*, *confirmed up to step K* (where a run ends there, or where the widest network leaves its
reference), *undecided* (the interval holds both answers), *not seen by step K* (in a run that was cut short), and *not
confirmed*.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import pandas as pd
from figures_runs import Figure

from mfrun.config import stood_label
from mfrun.study.convergence import Study, fit, rms, study
from mfrun.study.curves import Curve, is_limit

CONFIRMED, UNDECIDED, NOT_CONFIRMED = "confirmed", "undecided", "not confirmed"
# A network has left its reference where its gap exceeds this part of the range of the loss, as `mfrun compare` has it.
TOLERANCE = 0.05
# What "close to zero", "a significant fraction" and "about" are taken to mean.
ZERO, SIGNIFICANT, ABOUT = 0.01, 0.05, 0.01


@dataclass
class Finding:
    """What a figure shows of a claim.

    Attributes:
        measured: values with their intervals, in one line.
        verdict: one of the module's words, and on what it rests where there are several.
    """

    measured: str
    verdict: str


@dataclass
class Claim:
    """What the paper says, where, of which figures, and what of it the runs of one figure show.

    Attributes:
        measure: of a figure that was run.
    """

    words: str
    source: str
    figures: list[str]
    measure: Callable[[Figure], Finding]


# -- the curves come to lie on one another ----------------------------------------------------------------------------


def matching(figure: Figure) -> Finding:
    """Gaps among the widths, as the paper looks at them, and to the limit."""
    said, verdicts = [], []
    for setting, kind, s in references(figure):
        gaps = ", ".join(f"{rms(g.of_one()):.2g} at n = {stood_label(g.width, g.neurons)}" for g in s.gaps)
        of = f" [{setting}]" if setting else ""
        said.append(f"gap to n = {s.reference}{of}: {gaps}{_rate(s)}")
        verdicts.append(f"{kind}{of}: {falls(s, figure)}")
    return Finding("<br>".join(said) or "one width only", "<br>".join(verdicts) or UNDECIDED)


@cache
def references(figure: Figure) -> list[tuple[str, str, Study]]:
    """For each setting the real networks held to the largest of them, and to the limit.

    What stands for a width is held to real networks of it elsewhere, and would take the place of the largest one here.
    """
    found = []
    for setting, every in figure.settings():
        curves = [c for c in every if not c.neurons]
        finite = [c for c in curves if not is_limit(c)]
        for kind, some in (("among widths", finite), ("with n = inf", curves if len(curves) > len(finite) else [])):
            if len(some) > 1:
                found.append((setting, kind, study(some, figure.loss(), TOLERANCE, absolute=False)))
    return found


def falls(s: Study, figure: Figure) -> str:
    """Whether the gap falls with n, and up to which step: where the widest leaves, or the run ends."""
    horizon = s.gaps[-1].horizon(s.tolerance)
    last = int(s.gaps[-1].differences.index[-1])
    until = last if horizon is None else horizon[0]
    parts = [replace(g, differences=d) for g in s.gaps if len(d := g.differences.loc[:until])]
    law = fit(parts, lambda d: float((d**2).mean() ** 0.5)) if len(parts) == len(s.gaps) else s.fit_one
    if not law.source:
        return f"{UNDECIDED} ({law.why or 'too few networks for an interval of r'})"
    if law.low <= 0:
        return NOT_CONFIRMED if law.high < 0 else f"{UNDECIDED} (r = {law.rate:.2f} [{law.low:.2f}, {law.high:.2f}])"
    return CONFIRMED if until >= figure.steps() else f"{CONFIRMED} up to step {until}"


def _rate(s: Study) -> str:
    f = s.fit_one
    if math.isnan(f.rate):
        return ""
    return f", r = {f.rate:.2f}" + (f" [{f.low:.2f}, {f.high:.2f}]" if f.source else "")


# -- where they end ---------------------------------------------------------------------------------------------------


def near_zero(figure: Figure) -> Finding:
    """The classification error at the end."""
    words = _each(figure, lambda c: percent(*at_end(c, figure.error())))
    ends = [at_end(c, figure.error()) for c in figure.curves if not _is_cut(c, figure)]
    worst = max(value + 1.96 * error for value, error in ends)
    return Finding(f"classification error at the end {words}", _end(figure, worst < ZERO))


def test_error(width: int, said: float) -> Callable[[Figure], Finding]:
    """The test error at the end of one width, beside what the paper has."""

    def measure(figure: Figure) -> Finding:
        there = [c for c in figure.curves if c.width == width]
        if not there:
            return Finding(f"n = {width} not run", "not run")
        value, error = at_end(there[0], "test_error")
        text = f"{percent(value, error)} at n = {stood_label(width, there[0].neurons)}, step {_end_of(there[0])}"
        return Finding(text, _end(figure, abs(value - said) < ABOUT + 1.96 * error, _end_of(there[0])))

    return measure


def overfits(figure: Figure) -> Finding:
    """Whether the test loss has a valley that it has left beyond its error, while the training loss went on falling."""
    there = []

    def valley(curve: Curve) -> str:
        loss, train = (curve.table(f"{split}_loss").mean(axis=1) for split in ("test", "train"))
        least, error = loss.idxmin(), _se(curve, "test_loss", _end_of(curve))
        if not _is_cut(curve, figure):
            there.append(loss.iloc[-1] - loss[least] > 1.96 * error and train.iloc[-1] < train[least])
        return f"{loss[least]:.3g} at step {least}, {loss.iloc[-1]:.3g} +- {1.96 * error:.1g} at the end"

    words = _each(figure, valley, only=figure.widest())
    return Finding(f"least test loss {words}", _end(figure, all(there)))


# -- what the layers do -----------------------------------------------------------------------------------------------


def nonpositive(figure: Figure) -> Finding:
    """The share of non-positive pre-activations in layers l > 1, from the first row to the last."""
    moved: dict[str, bool] = {}

    def shares(curve: Curve) -> str:
        ends = {}
        for m in curve.metrics():
            if m.startswith("nonpositive_") and m != "nonpositive_1":
                mean = curve.table(m).mean(axis=1)
                ends[m.rpartition("_")[2]] = (mean.iloc[0], mean.iloc[-1])
        for l, (a, b) in ends.items() if not _is_cut(curve, figure) else ():
            moved[l] = moved.get(l, True) and a < SIGNIFICANT / 10 and b > SIGNIFICANT
        return ", ".join(f"{100 * a:.1f} to {100 * b:.1f}" for a, b in ends.values())

    words = _each(figure, shares, only=figure.widest())
    layers = [l for l, yes in moved.items() if yes]
    verdict = _end(figure, bool(layers))
    if layers and len(layers) < len(moved):
        verdict += f" in layer{'s' * (len(layers) > 1)} {', '.join(layers)} only"
    return Finding(f"% in layers {', '.join(moved)}: {words}", verdict)


def two_starts(figure: Figure) -> Finding:
    """The distance between the two settings of tau2, at step 0 and the largest over the run."""
    said, holds = [], []
    by_width: dict[str, list[Curve]] = {}
    for curve in figure.curves:
        by_width.setdefault(stood_label(curve.width, curve.neurons), []).append(curve)
    for label, pair in by_width.items():
        if len(pair) == 2:
            one, other = (c.table(figure.loss()).mean(axis=1) for c in pair)
            apart = (one - other).abs().dropna()
            said.append(f"n = {label}: {apart.iloc[0]:.2g} and {apart.max():.2g}")
            bars = [b for c in pair if (b := c.bar(figure.loss())) is not None]
            error = math.sqrt(sum(float(b[apart.idxmax()]) ** 2 for b in bars))
            if pair[0].width in figure.widest():
                holds.append(apart.iloc[0] < 0.05 * apart.max() and apart.max() > error)
    if not said:
        return Finding("one value of tau2 only", UNDECIDED)
    # That the start does not depend on tau2 is a statement about n = infinity, and about finite widths in tendency.
    return Finding(f"distance in loss at step 0 and at most, {'; '.join(said)}", _end(figure, all(holds[-1:])))


# -- words ------------------------------------------------------------------------------------------------------------


def _each(figure: Figure, words: Callable[[Curve], str], only: list[float] | None = None) -> str:
    parts = []
    for setting, curves in figure.settings():
        of = f" [{setting}]" if setting else ""
        chosen = [c for c in curves if only is None or c.width in only]
        parts += [f"n = {stood_label(c.width, c.neurons)}{of}{_cut(c, figure)}: {words(c)}" for c in chosen]
    return "; ".join(parts)


def _end(figure: Figure, holds: bool, step: int | None = None) -> str:
    """The verdict on what is so, or is not, at the end of the runs, or of the one that has come to a step."""
    step = figure.step() if step is None else step
    whole = step >= figure.steps()
    if holds:
        return CONFIRMED if whole else f"{CONFIRMED} up to step {step}"
    return NOT_CONFIRMED if whole else f"not seen by step {step}"


def _end_of(curve: Curve) -> int:
    return int(curve.times().index[-1])


def _is_cut(curve: Curve, figure: Figure) -> bool:
    """Whether what stands for a width ends before the figure does, so that it says nothing of the figure's end."""
    return _end_of(curve) < figure.step()


def _cut(curve: Curve, figure: Figure) -> str:
    """Where it ends, in words."""
    return f" (to step {_end_of(curve)})" if _is_cut(curve, figure) else ""


def at_end(curve: Curve, metric: str, step: int | None = None) -> tuple[float, float]:
    """The value at the end, or a step, and its standard error: of the samples, and of several replicates."""
    table = curve.table(metric)
    step = int(table.index[-1]) if step is None else step
    values = table.loc[step]
    spread = values.std() / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(values.mean()), math.hypot(_se(curve, metric, step), spread)


def _se(curve: Curve, metric: str, step: int) -> float:
    found: pd.Series | None = curve.standard_error(metric)
    return 0.0 if found is None else float(found.loc[step])


def percent(value: float, error: float) -> str:
    return f"{100 * value:.1f} %" if error == 0 else f"{100 * value:.1f} +- {196 * error:.1g} %"


CLAIMS = [
    Claim(
        '"the curves become increasingly matching on the whole training period as n increases"',
        "Section 4.2.2",
        ["fig1", "fig5_top", "fig5_bottom", "fig6a", "fig6b", "fig6c", "fig8a", "fig8b", "fig8c"],
        matching,
    ),
    Claim(
        '"the larger n, the better the curves match"',
        "Section 4.2.2",
        ["fig10a", "fig10b", "fig10c", "fig11", "fig11_untrained", "fig11_cnn"],
        matching,
    ),
    Claim('"the good match among the networks - the larger n, the better match"', "Appendix C", ["fig12"], matching),
    Claim('"close to zero classification error" on the Gaussians', "Section 4.2.2", ["fig5_top", "fig10a"], near_zero),
    Claim(
        'layers l > 1 are "initialized to be completely in the linear region of the ReLU"; at the end the number of '
        'non-positive pre-activations "amounts to a significant fraction"',
        "Section 4.2.2",
        ["fig6a", "fig6b", "fig6c", "fig8a", "fig8b", "fig8c"],
        nonpositive,
    ),
    Claim(
        '"the value of tau2 does not affect the initial values of the network output [...] in the limit", yet "the two '
        'initializations yield two different trajectories"',
        "Section 4.2.2",
        ["fig5_bottom", "fig7", "fig9"],
        two_starts,
    ),
    Claim('"the networks overfit in the CIFAR-10 task"', "Section 4.2.2", ["fig8a", "fig8b", "fig8c"], overfits),
    Claim('test error "of about 43%", 4 layers, n = 800', "Section 4.2.2", ["fig8b"], test_error(800, 0.43)),
    Claim('test error "of about 14%" with VGG16 features, n = 800', "Section 4.2.2", ["fig11"], test_error(800, 0.14)),
    Claim('test error "about 27%" of the CNN, n = 400', "Appendix C", ["fig12"], test_error(400, 0.27)),
]
