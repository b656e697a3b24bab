"""Widths that fewer neurons stand for: what their neurons see of one another, held to real networks and the limit."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import LIMIT, TINY, curves, here, rows
from hypothesis import given, settings
from hypothesis import strategies as st
from training import trained

import mfrun
from mfrun.config import validated
from mfrun.dynamics.evaluate import of_sets
from mfrun.dynamics.experiment import Experiment, assemble
from mfrun.networks import StandIn
from mfrun.networks.finite import finite
from mfrun.networks.stand_in import stand_in
from mfrun.shell.compose import compose
from mfrun.study.horizon import crossing, law

# A task of a few inputs, on which a width shows within a few hundred steps.
TASK = ["threads=1", "dataset.d=8", "depth=4", "alpha=0.02", "steps=400", "evaluation.samples=1000", "dtype=float64"]


def experiment(*words: str) -> Experiment:
    return assemble(validated(compose([*TASK, *words], [])))


def drawn(e: Experiment, chosen: StandIn, sizes: list[int], widths: list[int]):
    blueprint = dataclasses.replace(e.blueprint, stand_in=chosen, neurons=sizes[-1])
    return stand_in(blueprint, e.architecture.layers_of(blueprint), sizes, widths)


# --- What is drawn.


@pytest.mark.parametrize("words", [(), ("init.tau3=0.5", "architecture.ratios=[2,1,0.5]"), ("neuron=affine",)])
def test_as_many_neurons_are_the_network_itself(words: tuple[str, ...]) -> None:
    """At n = N, without copies and with i.i.d. types: bit for bit."""
    e = experiment("width=12", "replicates=2", *words)
    widths = e.architecture.widths(12, 4)
    real = finite(e.blueprint, e.architecture.layers_of(e.blueprint), widths)
    stood = drawn(e, StandIn(mirrored=False, measure="drawn"), widths, widths)
    for a, b in zip([*real.W, *real.b, *real.theta], [*stood.W, *stood.b, *stood.theta], strict=True):
        assert torch.equal(a, b)
    assert real.p == stood.p


@settings(max_examples=20, deadline=None)
@given(
    st.integers(2, 20).map(lambda k: 2 * k),
    st.integers(2, 30).map(lambda k: 2 * k),
    st.floats(1, 12),
    st.booleans(),
)
def test_measures_are_probabilities_and_counts_of_the_width(N: int, first: int, decades: float, biases: bool) -> None:
    n = max(N + 1, round(10**decades))
    words = ["init.tau3=0.5"] if biases else []
    e = experiment(f"width={n}", f"neurons={N}", f"stand_in.first={first}", *words)
    network = e.network()
    assert network.widths == [first, N, N]
    for l, size in enumerate(network.widths, 1):
        p = network.p[l].probabilities(size)
        assert float(p.sum()) == pytest.approx(1, abs=1e-12)
        half = p[: size // 2]
        assert torch.equal(half, p[size // 2 :])
        typed = l != 2 or biases
        counts = 2 * n * half
        assert (counts - counts.round()).abs().max() < 1e-3 if typed else torch.allclose(counts, counts[0])


@pytest.mark.parametrize("words", [("neurons=64",), ("neurons=64", "stand_in.first=4096"), ("neurons=600",)])
@pytest.mark.parametrize("measure", ["sampled", "spread"])
def test_sums_over_neurons_have_the_noise_of_the_width(words: tuple[str, ...], measure: str) -> None:
    """n Var of the average of W_2[j, .] under p_1 is tau2^2, also where a point stands for less than one neuron."""
    n, tau2 = 1000, 0.7
    e = experiment(f"width={n}", f"init.tau2={tau2}", f"stand_in.measure={measure}", "replicates=40", *words)
    network = e.network()
    W, K = network.W[1], network.widths[0]
    sums = torch.stack([(W[s] * network.p[1].probabilities(K, s)).sum(1) for s in range(40)])
    # Half of the neurons are copies of the others, and differ in what this sum does not see.
    assert n * float((sums - 1).square().mean()) / tau2**2 == pytest.approx(1, abs=0.15)


def test_without_noise_between_neurons_there_are_no_copies() -> None:
    """A network of one hidden layer has nothing to mirror: all its neurons are points of their own."""
    W = experiment("width=1000", "neurons=31", "depth=2").network().W[0][0]
    assert len(torch.unique(W, dim=0)) == 31
    assert len(torch.unique(experiment("width=1000", "neurons=30").network().W[0][0], dim=0)) == 15


def test_copies_have_opposite_noise() -> None:
    """Exactly: what the neurons of layer 2 see of layer 1 averages over copies to the mean field."""
    e = experiment("width=1000", "neurons=16", "stand_in.first=32", "init.tau2=2")
    network, x = e.network(), torch.randn((5, 8), dtype=torch.float64)
    ws = network.workspace(5)
    network.forward(x, ws)
    mean = (network.p[1].probabilities(32) @ ws.a[0]) * 1.0  # mu2 = 1
    assert torch.allclose((ws.h[1][:8] + ws.h[1][8:]) / 2, mean.expand(8, 5), atol=1e-12)
    assert (ws.h[1][:8] - mean).abs().max() > 0.01


@pytest.mark.parametrize(("n", "N", "first"), [(40, 16, 16), (40, 16, 64), (10**6, 16, 16), (10**6, 32, 8)])
def test_the_noise_of_the_real_width(n: int, N: int, first: int) -> None:
    """Up: (tau2^2 / n) E_p[a a'] in every h_j. Down: (tau2^2 / n) E_p[D D'] in every bracket. Over 2000 draws of it."""
    tau2, starts = 2.0, 2000
    e = experiment(f"width={n}", f"neurons={N}", f"stand_in.first={first}", f"init.tau2={tau2}", f"replicates={starts}")
    network = e.network()
    W, p1, p2 = network.W[1], network.p[1], network.p[2]
    x = torch.randn((3, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a = torch.relu(network.W[0] @ x.T)
    weights = [torch.stack([p.probabilities(s, r) for r in range(starts)]) for p, s in ((p1, first), (p2, N))]
    # Upwards, from the neurons' own types.
    pa = weights[0].unsqueeze(-1) * a
    noise = W @ pa - pa.sum(1, keepdim=True)
    wanted = tau2**2 / n * torch.einsum("sib,sic->bc", pa, a) / starts
    found = torch.einsum("sjb,sjc->bc", noise, noise) / (starts * N)
    assert torch.allclose(found, wanted, rtol=0.1)
    # Downwards, from signals that differ between the neurons of layer 2 and not between copies.
    D = torch.randn((N // 2, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64).repeat(2, 1)
    pD = weights[1].unsqueeze(-1) * D
    back = W.mT @ pD - pD.sum(1, keepdim=True)
    # A type that nobody is of has no noise, and nobody sees it.
    there = weights[0] > 0
    found = torch.einsum("sib,sic,si->bc", back, back, there.double()) / there.sum()
    wanted = tau2**2 / n * torch.einsum("sjb,jc->bc", pD, D) / starts
    assert torch.allclose(found, wanted, rtol=0.1)


def test_the_response_of_the_real_width() -> None:
    """bracket_i has (tau2^2 / n) E[dD/dh] a_i, since D_j sees W_ji through h_j."""
    n, N, tau2, starts = 60, 16, 3.0, 4000
    e = experiment(f"width={n}", f"neurons={N}", f"init.tau2={tau2}", "stand_in.measure=spread", f"replicates={starts}")
    network = e.network()
    x = torch.randn((8,), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a = torch.relu(network.W[0] @ x)
    h = (network.W[1] @ a.unsqueeze(-1)).squeeze(-1) / N
    D = h**2  # A signal whose derivative is 2 h.
    bracket = (network.W[1].mT @ D.unsqueeze(-1)).squeeze(-1) / N - D.mean(1, keepdim=True)
    found, derivative = (bracket * a).mean(), 2 * h.mean(1, keepdim=True)
    assert float(found) == pytest.approx(tau2**2 / n * float((derivative * a * a).mean()), rel=0.1)


def test_an_infinite_width_has_no_noise() -> None:
    """At n = 10^18 the inner neurons are one, and stay one."""
    e = experiment("width=1000000000000000000", "neurons=16", "stand_in.first=256", "stand_in.measure=spread")
    network = e.network()
    steps = e.steps(network, e.stream())
    steps.advance(0, 50)
    assert float((network.W[1] - network.W[1][:, :1, :]).abs().max()) < 1e-6
    assert float((network.W[1] - 1).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        (("depth=4", "stand_in.first=32", "stand_in.last=64"), [32, 16, 64]),
        (("depth=4", "stand_in.last=64", "architecture.ratios=[1,1,0.5]"), [16, 16, 32]),
        (("depth=2", "stand_in.first=32", "stand_in.last=64"), [64]),
        (("depth=2", "stand_in.first=64", "stand_in.last=32"), [64]),
        (("depth=4", "stand_in.first=32", "width=16"), [16, 16, 16]),
    ],
)
def test_the_first_and_the_last_layer_may_hold_more(words: tuple[str, ...], sizes: list[int]) -> None:
    """Whatever they stand for, their points' probabilities are those of all n neurons."""
    network = experiment("width=1000", "neurons=16", *words).network()
    assert network.widths == sizes
    for l in range(1, len(sizes) + 1):
        assert network.probabilities(l).sum(1).numpy() == pytest.approx(1.0)


# --- What it does.


@pytest.mark.parametrize(
    ("words", "N", "first"),
    [(("init.tau2=0.1",), 32, 256), (("init.tau2=2",), 32, 256), (("init.tau2=1", "init.tau3=0.5"), 64, 512)],
)
def test_the_curve_and_its_spread_are_the_real_ones(words: tuple[str, ...], N: int, first: int) -> None:
    """n = 96: mean and deviation over 24 starts, within the errors of both."""
    S, marks, words = 24, [0, 50, 100], (*words, "dtype=float32")
    real = trained(experiment("width=96", f"replicates={S}", *words), marks)
    some = experiment("width=96", f"neurons={N}", f"stand_in.first={first}", f"replicates={S}", *words)
    stood = trained(some, marks)
    error = ((real.var(1) + stood.var(1)) / S).sqrt()
    assert ((real.mean(1) - stood.mean(1)).abs() / error).max() < 3.5
    # The logarithm of a deviation over S starts is known to 1 / sqrt(2 S) where the law is normal.
    assert (real.std(1).log() - stood.std(1).log()).abs().max() < 3.5 * math.sqrt(1 / S)


def test_the_limit_of_wide_stand_ins_is_the_limit() -> None:
    """Gap at n = 10^12 within the limit's own bar and the spread of the stand-ins."""
    marks = [50, 150]
    mean, bar = of_sets(trained(experiment("width=inf", "particles.first=2048"), marks).T, 8, union=True)
    mean, bar = mean[0], bar[0]
    stood = trained(experiment("width=1000000000000", "neurons=16", "stand_in.first=512", "replicates=4"), marks)
    assert ((stood.mean(1) - mean).abs() < bar + 3 * stood.std(1) / 2).all()


# --- As a user has it.


def test_a_sweep_with_real_widths_stand_ins_and_the_limit(capfd: pytest.CaptureFixture[str]) -> None:
    """Everything takes them, and says which they are; a real network is what it is without the key."""
    words = [*SEVERAL, *LIMIT, "steps=30", "replicates=2", "keep_checkpoints=1"]
    assert here("sweep", *words, "widths=[4,6,1e3,1e6,inf]", "neurons=6", "stand_in.first=8", "dir=s") == 0
    assert here("train", *words, "width=6", "dir=r") == 0
    assert curves("s/width=6") == curves("r")
    assert "neurons" not in Path("s/width=6/config.yaml").read_text() + Path("s/width=inf/config.yaml").read_text()
    sweep = mfrun.load("s")
    assert [(run.width, run.neurons) for run in sweep] == [(4, None), (6, None), (1e3, 6), (1e6, 6), (math.inf, None)]
    table = sweep.frame.groupby("width").neurons.first()
    assert table.dropna().to_dict() == {1e3: 6, 1e6: 6}
    capfd.readouterr()
    assert here("compare", "s", "--metrics", "population_loss") == 0
    said = capfd.readouterr().out
    assert " 1e6 by 6 " in said
    assert "n by N: N neurons a layer stand for n" in said
    for command in (["plot", "s"], ["plot", "s", "--weights"], ["report", "s"], ["export", "s"], ["status", "s"]):
        assert here(*command) == 0
    assert "a network of n = 1e6 (stood for by 6 neurons a layer) is off the limit" in Path("s/report.html").read_text()
    assert here("statics", "s/width=1000000") == 0
    assert here("sweep", *words, "widths=[4,1e3,1e12]", "neurons=6", "--dry-run") == 0
    assert here("sweep", "dir=s", "resume=true", "widths=[4,6,1e3,1e6,1e9,inf]", "steps=60") == 0
    assert (
        here("sweep", *words[:-3], "steps=60", "replicates=2", "widths=[1e3]", "neurons=6", "stand_in.first=8", "dir=t")
        == 0
    )
    assert curves("s/width=1000") == curves("t/width=1000")


def test_a_width_both_real_and_stood_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Two curves, not one of twice the networks: in the table, the picture and the report."""
    words = [*SEVERAL, *LIMIT, "steps=30"]
    assert here("sweep", *words, "widths=[12,inf]", "dir=s") == 0
    assert here("sweep", *words, "widths=[12]", "neurons=6", "dir=s/stand_ins") == 0
    real, stood, limit = mfrun.load("s").curves()
    assert [(c.width, c.neurons) for c in (real, stood, limit)] == [(12, None), (12, 6), (math.inf, None)]
    assert not real.table("population_loss").equals(stood.table("population_loss"))
    capsys.readouterr()
    assert here("compare", "s", "--metrics", "population_loss") == 0
    said = capsys.readouterr().out
    assert [line.split()[:3] for line in said.splitlines() if line.lstrip().startswith("12 ")][1] == ["12", "by", "6"]
    figure = mfrun.plot("s", metrics="population_loss")
    (legend,) = figure.legends
    assert len({(line.get_linestyle(), str(line.get_color())) for line in legend.get_lines()}) == 3
    assert [t.get_text() for t in legend.get_texts()] == ["$n = 12$", "$n = 12$ ($N = 6$)", r"$n = \infty$"]
    assert here("report", "s") == 0
    # Where a key tells what stands for others apart, no two of the lines are alike, and real networks have solid ones.
    assert here("sweep", *words, "widths=[12]", "neurons=6", "stand_in.first=8", "dir=s/wider") == 0
    figure = mfrun.plot("s", metrics="population_loss")
    (legend,) = figure.legends
    words = [t.get_text() for t in legend.get_texts()]
    assert words[-2:] == ["layer 1: 6 neurons", "layer 1: 8 neurons"]
    lines = figure.axes[0].lines
    assert len({(str(line._dash_pattern), str(line.get_color())) for line in lines}) == len(lines) == 4
    assert sum(line.get_linestyle() == "-" for line in lines) == 1


SEVERAL = ["threads=1", *TINY[2:]]


def test_other_kinds_of_networks() -> None:
    """Convolutions, several outputs, biases with a spread, ratios, neurons with a theta, tau3."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (30, 6, 6, 1), dtype=np.uint8), rng.integers(0, 3, 30)
    np.savez("a.npz", x_train=x[:20], y_train=y[:20], x_test=x[20:], y_test=y[20:])
    data = ["threads=1", "dataset=arrays", "dataset.path=a.npz", "loss=cross_entropy", "batch=6", "steps=20"]
    cnn = ["architecture=cnn", "architecture.layers=[{kernel:3},{kernel:3,pool:2}]"]
    assert here("train", *data, *cnn, "width=100000", "neurons=6", "dir=cnn") == 0
    assert here("train", *data, "width=100000", "neurons=6", "depth=3", "init.tau3=0.5", "dir=b") == 0
    more = ["architecture.ratios=[1,2]", "neuron=affine", "neuron.deviations=[0.1,0.1]", "init.law=uniform"]
    assert here("train", *data, *more, "width=100000", "neurons=6", "depth=3", "dir=c") == 0
    for run in ("cnn", "b", "c"):
        assert all(math.isfinite(float(row["test_loss"])) for row in rows(run))


REFUSED = {
    "width=1e400": "1e400: too large a number",
    "width=1e19": "width=10000000000000000000: a width is a whole number of neurons from 1 to 1e+18, or inf",
    "width=1000 neurons=7": "neurons=7: mirrored copies need an even number in each layer, not 7, 7",
    "width=1000 neurons=6 stand_in.first=5": "stand_in.first=5: mirrored copies need an even number in each layer",
    "width=1000 neurons=1": "neurons=1: must be at least 2",
    "width=1000 neurons=6 stand_in.first=1": "stand_in.first=1: must be at least 2",
    "width=1000 neurons=6 stand_in.last=1": "stand_in.last=1: must be at least 2",
    "width=1000 neurons=6 stand_in.last=7": "stand_in.last=7: mirrored copies need an even number in each layer",
    "width=1000 neurons=6 scaling=ntk": "neurons=6: cannot stand for a larger width with scaling=ntk, but mean_field",
    "width=1000 neurons=6 operation=of_sum": "neurons=6: cannot stand for a larger width with operation=of_sum",
    "width=1000 neurons=6 stand_in.measure=x": "stand_in.measure=x: one of sampled, spread, drawn",
    "width=1000 neurons=6 stand_in.mirored=x": "stand_in.mirored=x: unknown key",
    "width=1000 neurons=6 stand_in.mirrored=false stand_in.first=60": "stand_in.mirrored=false: layers of [60, 6]",
    "width=1000 neurons=6 stand_in.mirrored=false": "stand_in.mirrored=false: needs stand_in.measure=spread or drawn",
}


@pytest.mark.parametrize("words", REFUSED)
def test_bad_input(words: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert here("train", "threads=1", "depth=3", "dataset.d=3", "steps=2", "dir=r", *words.split()) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"mfrun: {REFUSED[words]}")
    assert err.count("\n") == 1
    assert not Path("r").exists()


def test_an_architecture_that_does_not_say_how(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("silent.py").write_text(
        "from dataclasses import dataclass\n"
        "from mfrun.networks import Architecture, DenseArchitecture\n\n"
        "@dataclass\nclass Silent(DenseArchitecture):\n    stand_in = Architecture.stand_in\n"
    )
    monkeypatch.syspath_prepend(".")
    words = ["depth=3", "dataset.d=3", "steps=2", "architecture.name=silent:Silent", "dir=r"]
    assert here("train", "threads=1", *words, "width=6", "neurons=6") == 0
    assert here("train", "threads=1", *words[:-1], "dir=s", "width=60", "neurons=6") == 2
    said = "neurons=6: cannot stand for a larger width with architecture=silent:Silent, which does not say how"
    assert f"mfrun: {said}" in capfd.readouterr().err


# --- The horizon.


@given(st.floats(0.05, 3), st.floats(1e-6, 1e-2), st.floats(0.01, 0.9))
def test_a_crossing_is_exact_for_exponential_growth(rate: float, start: float, tolerance: float) -> None:
    t = np.linspace(0, 100, 23)
    with np.errstate(over="ignore"):
        gap = start * np.exp(rate * t)
    exact = math.log(tolerance / start) / rate
    found = crossing(gap, t, tolerance)
    assert found is None if exact > 100 else found == pytest.approx(exact, rel=1e-6)


def test_the_law_of_the_horizon_is_found() -> None:
    """Gaps exp(t / 20) / sqrt(n): t_h = 20 ln(tolerance) + 10 ln n, with an interval that holds the slope."""
    n = np.array([1e2, 1e4, 1e6, 1e9])
    t = np.linspace(0, 300, 60)
    rng = np.random.default_rng(0)
    gaps = [np.exp(t / 20)[:, None] / math.sqrt(w) * np.exp(0.3 * rng.standard_normal(12)) for w in n]
    found = law(n, gaps, [t] * 4, 0.5)
    assert found.b == pytest.approx(10, rel=0.05)
    assert found.low < found.b < found.high
    assert abs(found.b - 10) < found.high - found.low
    assert found.source == "replicates"
    assert math.isnan(law(n[:2], gaps[:2], [t] * 2, 0.5).b)
