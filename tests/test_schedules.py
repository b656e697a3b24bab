"""Every schedule against its closed form, one step at a time in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfrun.dynamics import schedules
from mfrun.dynamics.schedules import Constant, Cosine, Exponential, Piecewise, Power, Rates, Schedule
from mfrun.errors import ConfigError

ALPHA, STEPS = 0.01, 1000  # the run ends at t = 10


def cosine(final, time):
    return lambda k: final + (1 - final) * (1 + math.cos(math.pi * min((k - 1) * ALPHA / time, 1))) / 2


# xi as a function of the iteration k = 1, 2, ..., which begins at t = (k - 1) alpha.
CASES = {
    "constant": (Constant(), lambda k: 1.0),
    "power": (Power(p=0.1), lambda k: k**-0.1),
    "power 1": (Power(p=1.0), lambda k: 1 / k),
    "exponential": (Exponential(time=3.0), lambda k: math.exp(-(k - 1) * ALPHA / 3)),
    "cosine over the run": (Cosine(), cosine(0.0, 10.0)),
    "cosine over a time": (Cosine(final=0.2, time=4.0), cosine(0.2, 4.0)),
    # Halves of steps, so that no rounding decides on which side of a jump a step falls.
    "piecewise": (
        Piecewise(times=[0.995, 5.005], values=[1.0, 0.5, 0.125]),
        lambda k: 1.0 if k <= 100 else 0.5 if k <= 501 else 0.125,
    ),
}


def rates(schedule: Schedule, first: int, count: int, layers: int = 3, steps: int = STEPS) -> np.ndarray:
    return np.array(Rates(schedule, ALPHA, steps, layers).of_layers(first, count))


def test_every_schedule_has_a_case():
    """A new schedule without a closed form here would go untested."""
    known = {
        c for c in vars(schedules).values() if isinstance(c, type) and issubclass(c, Schedule) and c is not Schedule
    }
    assert {type(s) for s, _ in CASES.values()} == known


@pytest.mark.parametrize("name", CASES)
def test_closed_form(name):
    """alpha xi for each of the layers, from the first step past the last."""
    schedule, xi = CASES[name]
    expected = [[ALPHA * xi(k)] * 3 for k in range(1, STEPS + 101)]
    np.testing.assert_allclose(rates(schedule, 0, STEPS + 100), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", CASES)
@settings(deadline=None, max_examples=25, derandomize=True)
@given(first=st.integers(0, 900), a=st.integers(0, 50), b=st.integers(1, 50))
def test_blocks_fit_together(name, first, a, b):
    """The loop asks block by block, and a resumed run from another place: the rates are functions of the step alone."""
    schedule, _ = CASES[name]
    rates = Rates(schedule, ALPHA, STEPS, layers=2)
    whole = rates.of_layers(first, a + b)
    parts = [rates.of_layers(i, n) for i, n in ((first, a), (first + a, b))]
    assert whole == parts[0] + parts[1]
    assert len(whole) == a + b


@pytest.mark.parametrize("name", CASES)
def test_only_a_cosine_over_the_run_depends_on_its_length(name):
    """``needs_end`` decides whether a finished run may be made longer."""
    schedule, _ = CASES[name]
    same = np.array_equal(rates(schedule, 0, 500), rates(schedule, 0, 500, steps=2 * STEPS))
    assert same != schedule.needs_end
    assert schedule.needs_end == (name == "cosine over the run")


@pytest.mark.parametrize("warmup", [ALPHA, 0.5, 2.0])
def test_warmup(warmup):
    """The rate rises linearly: step k of the warm-up's m takes k / m of its scheduled rate, and from m on all of it."""
    m = round(warmup / ALPHA)
    schedule = Exponential(time=3.0, warmup=warmup)
    bare = rates(Exponential(time=3.0), 0, STEPS)
    factors = np.array([min(1.0, k / m) for k in range(1, STEPS + 1)])[:, None]
    np.testing.assert_allclose(rates(schedule, 0, STEPS), bare * factors, rtol=1e-12)


def test_multipliers():
    """One factor for each layer, with a schedule and a warm-up; a factor 0 freezes its layer."""
    with_factors = rates(Power(p=0.5, warmup=0.2, multipliers=[2.0, 0.0, 0.5]), 3, 100)
    np.testing.assert_allclose(
        with_factors, rates(Power(p=0.5, warmup=0.2), 3, 100) * np.array([2.0, 0.0, 0.5]), rtol=1e-15
    )
    assert (with_factors[:, 1] == 0).all()


def test_rates_are_python_floats():
    """They go into every call of the loop as ``alpha``; a NumPy scalar there is slower and may carry its own type."""
    assert all(type(r) is float for row in Rates(Constant(), ALPHA, 5, layers=2).of_layers(0, 2) for r in row)


@pytest.mark.parametrize(
    ("component", "keys"),
    [
        (Constant, {"warmup": -1.0}),
        (Constant, {"warmup": math.inf}),
        (Constant, {"warmup": math.nan}),
        (Constant, {"multipliers": [1.0, -1.0]}),
        (Constant, {"multipliers": [math.nan]}),
        (Power, {"p": -0.1}),
        (Exponential, {"time": 0.0}),
        (Cosine, {"final": 1.5}),
        (Cosine, {"time": 0.0}),
        (Piecewise, {"times": [1.0]}),
        (Piecewise, {"times": [2.0, 1.0], "values": [1.0, 1.0, 1.0]}),
        (Piecewise, {"times": [0.0], "values": [1.0, 1.0]}),
        (Piecewise, {"times": [math.nan], "values": [1.0, 1.0]}),
        (Piecewise, {"times": [math.inf], "values": [1.0, 1.0]}),
        (Piecewise, {"values": [-1.0]}),
    ],
)
def test_bad_values_are_refused(component, keys):
    """A ConfigError that names the key."""
    with pytest.raises(ConfigError) as caught:
        component(**keys)
    assert caught.value.key in keys or caught.value.key == "values"


@pytest.mark.parametrize("last", [1, 1000, schedules.TRIED, schedules.TRIED + 3, 2 * schedules.TRIED + 1])
def test_a_rate_below_0_is_refused_at_its_step(last):
    """However late it comes, if it comes within the run; step ``last`` is the last with a rate >= 0."""

    class Falling(Schedule):
        def xi(self, k, t, end):
            return last + 0.5 - k

    schedules.refuse_negative_rates(Rates(Falling(), ALPHA, last, layers=2), "mine:Falling")
    with pytest.raises(ConfigError, match=rf"it is -0.5 at step {last + 1}$"):
        schedules.refuse_negative_rates(Rates(Falling(), ALPHA, last + 5, layers=2), "mine:Falling")
