"""Neurons and operations as a user meets them: closed forms, the types of the limit, and the command line."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from commands import here
from reference import Init, build
from torch import Tensor

from mfrun.networks.activations import Activation, ReLU, Sigmoid, Tanh
from mfrun.networks.fully_connected import DenseArchitecture
from mfrun.networks.laws import Normal
from mfrun.networks.neurons import Affine, Bias, Gain, Gate, Neuron, Slope, Steepness
from mfrun.networks.operations import OfProduct, OfSum, Pointwise
from mfrun.networks.particles import Particles

TINY = ["dataset.d=3", "depth=3", "batch=5", "steps=6", "threads=1", "dtype=float64", "evaluation.samples=50"]
LIMIT = ["particles.first=16", "particles.last=16", "particles.nodes=3", "particles.sets=2"]

OWN = """\
import torch


def peak(theta, h):
    return theta[0] * torch.exp(-((h - theta[1]) ** 2))


def wave(w, a):
    return torch.sin(w * a)


def by_hand(theta, h):
    return h if h > 0 else theta[0] * h


def whole(theta, h):
    return torch.softmax(h, 0)


def shrinks(w, a):
    return (w * a).sum(-1)
"""


def built(neuron: Neuron, width: float = math.inf, **keys):
    init = Init(Normal(), tau1=1.0, mu2=0.5, tau2=0.8, mu3=0.1, tau3=keys.pop("tau3", 0.0))
    return build(
        DenseArchitecture(),
        Tanh(),
        init,
        width=width,
        depth=4,
        d=3,
        n_out=1,
        neuron=neuron,
        dtype=torch.float64,
        **keys,
    )


def values(neuron: Neuron, sigma: Activation, theta: float, h: Tensor) -> Tensor:
    out = torch.empty_like(h)
    neuron.forward(sigma, (torch.full((len(h), 1), theta, dtype=h.dtype),), h, out)
    return out


@pytest.mark.parametrize("theta", [-0.7, 0.25, 1.6])
def test_the_forms_that_have_names(theta):
    """PReLU and swish, as torch has them."""
    h = torch.randn((4, 50), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(values(Slope(), ReLU(), theta, h), F.prelu(h, torch.tensor(theta, dtype=h.dtype)))
    torch.testing.assert_close(values(Gate(), Sigmoid(), theta, h), F.silu(theta * h) / theta)


def test_neutral_theta_is_the_plain_network():
    """theta_1 = 1, or 0 for the slope, leaves sigma(h + b); the weights are drawn as without theta."""
    x = torch.randn((6, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for width in (7, math.inf):
        plain = built(Bias(), width)
        assert plain.trained == []
        yhat = plain.forward(x, plain.workspace(6))
        for neuron in (Gain(), Affine(), Slope(means=[0.0]), Steepness()):
            other = built(neuron, width)
            torch.testing.assert_close(other.forward(x, other.workspace(6)), yhat, rtol=1e-12, atol=1e-14)
            for name, array in plain.state().items():
                assert torch.equal(other.state()[name], array)


def test_the_limit_has_a_type_for_each_theta():
    """Components of positive deviation are coordinates of the types of every layer; the others are their means."""
    particles = Particles(first=64, last=64, nodes=4, sets=2)
    assert built(Affine(), particles=particles).widths == [32, 1, 4]
    assert built(Affine(deviations=[0.3, 0.0]), particles=particles).widths == [32, 4, 16]
    assert built(Affine(deviations=[0.3, 0.0]), particles=particles, tau3=0.5).widths == [32, 16, 32]
    network = built(Affine(means=[0.9, -0.2], deviations=[0.3, 0.5]), particles=particles)
    assert network.widths == [32, 16, 32]
    for l in range(1, 4):
        for s in range(2):
            p = network.p[l].probabilities(network.widths[l - 1], s)[:, None]
            theta = network.state()[f"theta{l}"][s]
            mean = (p * theta).sum(0)
            exact = l == 2  # quadrature; the others are particles
            torch.testing.assert_close(
                mean, torch.tensor([0.9, -0.2], dtype=torch.float64), atol=1e-12 if exact else 0.2, rtol=0
            )
            deviation = (p * (theta - mean) ** 2).sum(0).sqrt()
            torch.testing.assert_close(
                deviation, torch.tensor([0.3, 0.5], dtype=torch.float64), atol=1e-12 if exact else 0.2, rtol=0
            )


def test_initial_theta_of_a_finite_network():
    """Means and deviations reach it; replicates and layers differ; replicate r is one however many there are."""
    neuron = Affine(means=[0.9, -0.2], deviations=[0.3, 0.0])
    three, one = built(neuron, 400, replicates=3), built(neuron, 400)
    for l in range(1, 4):
        theta = three.state()[f"theta{l}"]
        assert theta[..., 1].eq(-0.2).all()
        assert float(theta[..., 0].mean()) == pytest.approx(0.9, abs=5 * 0.3 / math.sqrt(1200))
        assert float(theta[..., 0].std()) == pytest.approx(0.3, rel=0.15)
        assert torch.equal(theta[:1], one.state()[f"theta{l}"])
    drawn = torch.cat([three.state()[f"theta{l}"][..., 0] for l in range(1, 4)])
    assert len(drawn[:, 0].unique()) == 9


@pytest.mark.parametrize("operation", [OfSum("tanh"), OfProduct("sigmoid")])
def test_closed_derivatives_are_those_of_torch_func(operation):
    """What a class knows against what :class:`Pointwise` takes by itself."""
    g = torch.Generator().manual_seed(0)
    w, a, D = (torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((3, 4, 1), (4, 5), (3, 1, 5)))
    s = torch.tanh if isinstance(operation, OfSum) else torch.sigmoid

    class Plain(Pointwise):
        def value(self, w: Tensor, a: Tensor) -> Tensor:
            return s(w + a) if isinstance(operation, OfSum) else s(w * a)

    kept = D.clone()
    for mine, theirs in zip(operation.pull(D, w, a), Plain().pull(D, w, a), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)
    assert torch.equal(D, kept)


# ---------------------------------------------------------------- the command line


@pytest.fixture
def folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Forms of the user's own lie there."""
    monkeypatch.syspath_prepend(folder)
    (folder / "own_forms.py").write_text(OWN)
    return folder


FUNCTION = ["neuron=function", "neuron.function=own_forms:peak", "neuron.means=[1,0]", "neuron.deviations=[0.2,0.1]"]


@pytest.mark.parametrize("width", ["5", "inf"])
def test_a_resumed_run_is_the_uninterrupted_one(folder: Path, width: str) -> None:
    """theta and the nodes of w are saved; the user's own functions train in both."""
    keys = [*TINY, f"width={width}", *LIMIT, *FUNCTION, "operation=function", "operation.function=own_forms:wave"]
    assert here("train", *keys, "dir=whole") == 0
    assert here("train", *keys, "dir=parts", "budget=0.5") == 0
    assert here("train", *keys, "dir=parts", "resume=true", "budget=1") == 0
    whole, parts = (pd.read_csv(folder / d / "metrics.csv").drop(columns="wall_seconds") for d in ("whole", "parts"))
    last = [frame[frame["step"] == 6].reset_index(drop=True) for frame in (whole, parts)]
    assert len(last[0]) == 1
    pd.testing.assert_frame_equal(*last, check_exact=True)
    assert whole["population_loss"].nunique() > 3


def test_sweep_compare_and_plot(folder: Path) -> None:
    """Finite widths and the limit with its bar, of a form that no matrix product has."""
    sweep = [*TINY, *LIMIT, "widths=[4,8,16,inf]", "operation=of_sum", "neuron=gain", "neuron.deviations=[0.2]"]
    compare = ["compare", "s", "--metrics", "population_loss"]
    for argv in (["sweep", *sweep, "dir=s"], compare, ["plot", "s", "--weights"]):
        assert here(*argv) == 0
    rows = pd.read_csv(folder / "s" / "width=inf" / "metrics.csv")
    assert (rows["population_loss_bar"] > 0).all()
    assert here("statics", "s/width=8") == 2


REFUSED = {
    "neuron=gain neuron.means=[1,2]": r"neuron.means=\[1.0, 2.0\]: theta has 1 component, and each",
    "neuron=gain neuron.deviations=[-1]": r"neuron.deviations=\[-1.0\]: standard deviations are >= 0",
    "neuron=gian": "neuron=gian: unknown; one of affine, bias, .*did you mean gain?",
    "neuron=function": "neuron.function=",
    "neuron=function neuron.function=peak": "neuron.function=peak: names an object of your own as package.module:name",
    "neuron=function neuron.function=own_forms:nothing": "neuron.function=own_forms:nothing: cannot be imported",
    "neuron=function neuron.function=own_forms:peak": "neuron.function=own_forms:peak: fails .IndexError",
    "neuron=function neuron.function=own_forms:by_hand": "neuron.function=own_forms:by_hand: fails ",
    "neuron=function neuron.function=own_forms:whole": "neuron.function=own_forms:whole: must act entry by entry",
    "operation=function operation.function=own_forms:shrinks": "operation.function=own_forms:shrinks: ",
    "operation=separable operation.u=tahn": "operation.u=tahn: unknown; .*did you mean tanh?",
    "operation=separable operation.u=math:sqrt": "operation.u=math:sqrt: is no subclass of",
    "operation=of_sum scaling=ntk": "operation=of_sum: needs scaling=mean_field, not ntk",
    "neuron=gain scaling=standard": "neuron=gain: needs scaling=mean_field, not standard",
    "neuron=gain architecture=cnn": "neuron=gain: is for dense layers; cnn takes bias",
    "operation=of_sum architecture=cnn": "operation=of_sum: is for dense layers; cnn takes product",
}


@pytest.mark.parametrize("line", REFUSED)
def test_refused_in_one_line(folder: Path, capfd: pytest.CaptureFixture[str], line: str) -> None:
    """Exit code 2, and the key and value in the one line."""
    assert here("train", "steps=0", *line.split()) == 2
    err = capfd.readouterr().err.strip()
    assert len(err.splitlines()) == 1
    assert re.search(REFUSED[line], err), err
    assert not (folder / "outputs").exists()
