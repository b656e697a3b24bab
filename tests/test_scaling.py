"""Scalings against plain PyTorch: the networks that the literature writes, autograd, SGD with the rates it states."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from commands import here
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import ACTIVATIONS, LOSSES, Init, build
from torch import Tensor, nn

from mfrun import cli
from mfrun.dynamics.experiment import restore
from mfrun.networks.activations import Tanh
from mfrun.networks.dense import Dense
from mfrun.networks.fully_connected import DenseArchitecture
from mfrun.networks.laws import Normal
from mfrun.networks.measures import Measure
from mfrun.networks.scaling import NTK, MeanField, Powers, Scaling, Standard
from mfrun.problems.losses import Squared
from mfrun.registry import create, find
from mfrun.runs.directory import RunDirectory

TINY = ["threads=1", "width=5", "depth=3", "dataset.d=3", "batch=5", "evaluation.samples=50", "steps=3"]
EXACT = {"rtol": 1e-10, "atol": 1e-12}
EXPONENTS = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=3, max_size=3)


def make(scaling: Scaling, widths: list[int], *, mu2: float = 0.0, tau3: float = 0.4, biases: bool = True, **keys):
    """A float64 network with hidden layers of the given widths, three inputs, two outputs."""
    n = widths[0]
    ratios = [k / n for k in widths]
    init = Init(Normal(), tau1=1.0, mu2=mu2, tau2=1.0, mu3=0.1, tau3=tau3)
    return build(
        DenseArchitecture(ratios, biases),
        keys.pop("activation", Tanh()),
        init,
        width=n,
        depth=len(widths) + 1,
        d=3,
        n_out=2,
        scaling=scaling,
        dtype=torch.float64,
        **keys,
    )


def own(network: Dense, scaling: Scaling) -> tuple[list[Tensor], list[Tensor] | None]:
    """Weights and biases of the first replicate as the scaling itself writes them."""
    f = scaling.factors(network.widths)
    W = [w[0] * unit for w, unit in zip(network.W, f.units, strict=True)]
    b = None if network.b is None else [v[0] / unit for v, unit in zip(network.b, f.bias_units, strict=True)]
    return W, b


def descend(network: Dense, scaling: Scaling, batches: list[tuple[Tensor, Tensor]], alpha: float) -> list[Tensor]:
    """SGD on the squared loss with the scaling's rates; yhat before each step."""
    outputs, B = [], len(batches[0][0])
    ws = network.workspace(B)
    for x, y in batches:
        yhat = network.forward(x, ws)
        outputs.append(yhat.clone())
        rates = [alpha * r / B for r in scaling.factors(network.widths).rates]
        network.descend(x, Squared().gradient(y, yhat), rates, ws)
    return outputs


def batches(steps: int = 5, B: int = 6) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(7)
    x = torch.randn((steps, B, 3), generator=g, dtype=torch.float64)
    y = torch.randn((steps, 2, B), generator=g, dtype=torch.float64)
    return list(zip(x, y, strict=True))


class Plain(nn.Module):
    """NTK or standard parametrisation as one would write it with nn.Linear."""

    def __init__(self, W: list[Tensor], b: list[Tensor], ntk: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(w.shape[1], w.shape[0], dtype=torch.float64) for w in W)
        self.ntk = ntk
        for layer, w, v in zip(self.layers, W, b, strict=True):
            layer.weight.data, layer.bias.data = w.clone(), v[:, 0].clone()

    def forward(self, x: Tensor) -> Tensor:
        for l, layer in enumerate(self.layers):
            if l > 0:
                x = torch.tanh(x)
            # The input's dimension is no width: its 1/sqrt(d) is in the initial weights, as in the mean field network.
            factor = 1 / math.sqrt(x.shape[1]) if self.ntk and l > 0 else 1.0
            x = F.linear(x, layer.weight * factor, layer.bias)
        return x


@pytest.mark.parametrize("name", ["ntk", "standard"])
@pytest.mark.parametrize("widths", [[7], [6, 9], [8, 6, 10]], ids=str)
def test_plain_pytorch(name: str, widths: list[int]) -> None:
    """nn.Linear, autograd and optim.SGD at one rate for all layers: the same outputs and weights, at every step."""
    scaling = create("scaling", {"name": name}, "scaling")
    network = make(scaling, widths)
    start, biases = own(network, scaling)
    plain = Plain(start, biases, ntk=name == "ntk")
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.05)
    outputs = []
    for x, y in batches():
        yhat = plain(x).T
        outputs.append(yhat.detach())
        optimiser.zero_grad()
        LOSSES["squared"](y, yhat).mean().backward()
        optimiser.step()
    mine = descend(network, scaling, batches(), 0.05)
    torch.testing.assert_close(torch.stack(mine), torch.stack(outputs), **EXACT)
    assert (mine[-1] - mine[0]).abs().max() > 0.05
    W, b = own(network, scaling)
    for layer, w, v, before in zip(plain.layers, W, b, start, strict=True):
        torch.testing.assert_close(w, layer.weight.detach(), **EXACT)
        torch.testing.assert_close(v[:, 0], layer.bias.detach(), **EXACT)
        assert not torch.allclose(w, before, rtol=1e-6)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    rows=st.tuples(EXPONENTS, EXPONENTS, EXPONENTS, EXPONENTS),
    widths=st.lists(st.integers(2, 6), min_size=1, max_size=4),
    activation=st.sampled_from(["relu", "tanh", "softplus"]),
    biases=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_powers_are_gradient_descent_in_their_own_weights(rows, widths, activation, biases, seed):
    """n^-a in the forward pass, n^-c before autograd's gradients, for all four rows; the rules of the module's text."""
    scaling = Powers(*rows)
    network = make(scaling, widths, biases=biases, activation=find("activation", activation, "")(), seed=seed)
    W, b = own(network, scaling)
    n = [1, *widths, 1]
    layers = range(1, len(n))
    kinds = ["first", *["inner"] * (len(widths) - 1), "output"]
    abc = [getattr(scaling, kind) for kind in kinds]
    bias_abc = [scaling.first] * len(widths) + [scaling.output_bias]
    # Of the layers' two widths, the first and the output have one that grows.
    fan = [n[max(l - 1, 1)] for l in layers]
    mean_width = [n[1], *(math.sqrt(n[l - 1] * n[l]) for l in layers[1:-1]), n[-2]]
    bias_width = [*widths, n[-2]]
    x, y = batches(1)[0]
    alpha = 1e-3

    leaves = [w.clone().requires_grad_() for w in W] + [v.clone().requires_grad_() for v in b or []]
    a = x.T
    for l in layers:
        h = fan[l - 1] ** -abc[l - 1][0] * leaves[l - 1] @ (a if l == 1 else ACTIVATIONS[activation](a))
        if biases:
            h = h + bias_width[l - 1] ** -bias_abc[l - 1][0] * leaves[len(W) + l - 1]
        a = h
    LOSSES["squared"](y, a).mean().backward()
    rates = [alpha * k ** -row[2] for k, row in zip(mean_width, abc, strict=True)]
    rates += [alpha * k ** -row[2] for k, row in zip(bias_width, bias_abc, strict=True)]

    (yhat,) = descend(network, scaling, [(x, y)], alpha)
    torch.testing.assert_close(yhat, a.detach(), **EXACT)
    moved = [*own(network, scaling)[0], *(own(network, scaling)[1] or [])]
    for leaf, rate, now in zip(leaves, rates, moved, strict=False):
        torch.testing.assert_close(now, leaf.detach() - rate * leaf.grad, **EXACT)


def test_initial_deviations() -> None:
    """The same draws in each scaling's own weights: tau for the mean field and NTK, tau / sqrt(fan-in) for standard."""
    widths = [6, 12, 9]
    reference, biases = own(make(MeanField(), widths), MeanField())
    for scaling in (NTK(), Standard(), Powers(inner=[0.3, 0.5, 0.0], output=[0.0, 0.5, 0.1])):
        W, b = own(make(scaling, widths), scaling)
        for l, (w, expected) in enumerate(zip(W, reference, strict=True)):
            power = 0.0 if l == 0 or isinstance(scaling, NTK) else 0.5
            torch.testing.assert_close(w, expected * expected.shape[1] ** -power, **EXACT)
        for v, expected in zip(b[:-1], biases[:-1], strict=True):
            torch.testing.assert_close(v, expected, **EXACT)
    # The output's bias is an average of n_L draws under the mean field scaling, and one draw under the others.
    spread = (biases[-1] - 0.1) * math.sqrt(9)
    torch.testing.assert_close(own(make(NTK(), widths), NTK())[1][-1] - 0.1, spread, **EXACT)


@settings(max_examples=300, derandomize=True)
@given(widths=st.lists(st.integers(1, 10**6), min_size=1, max_size=6))
def test_mean_field_is_untouched_bit_for_bit(widths: list[int]) -> None:
    """1/n as the uniform measure has it, and exact ones everywhere else: nothing is rounded that was not before."""
    for scaling in (MeanField(), Powers()):
        assert scaling.is_mean_field
        f = scaling.factors(widths)
        assert f.p == [Measure.uniform(k).scale for k in widths]
        ones = [1.0] * (len(widths) + 1)
        assert f.deviations == f.units == f.bias_deviations == f.bias_units == f.rates == ones


@pytest.mark.parametrize("scaling", [NTK(), Standard(), Powers(first=[0.0, 0.0, 0.0])], ids=lambda s: type(s).__name__)
def test_other_scalings_have_no_limit(scaling: Scaling) -> None:
    assert not scaling.is_mean_field


@pytest.mark.parametrize("name", ["mean_field", "ntk", "standard"])
def test_fractions_stay_fractions(name: str) -> None:
    """nonpositive_l is a share of the neurons whatever multiplier the layer has."""
    network = make(create("scaling", {"name": name}, "scaling"), [8, 10], replicates=2)
    x = torch.randn((50, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ws = network.workspace(50, backward=False)
    network.forward(x, ws)
    f = create("scaling", {"name": name}, "scaling").factors([8, 10])
    h = network.W[0] @ x.T + network.b[0]
    for l in range(2):
        share = (h <= 0).double().mean((1, 2)) * 50
        assert network.nonpositive(ws)[l].tolist() == pytest.approx(share.tolist(), rel=1e-12)
        h = f.p[l] * network.W[l + 1] @ torch.tanh(h) + network.b[l + 1]


# -- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("scaling=ntk width=inf", "width=inf: is the mean field limit; with scaling=ntk a width is a whole number"),
        ("scaling=standard init.mu2=1", "init.mu2=1.0: must be 0 with scaling=standard, where sums of n such weights"),
        ("scaling=nkt", "scaling=nkt: unknown; one of mean_field, ntk, powers, standard; did you mean ntk?"),
        ("scaling=ntk +scaling.inner=[0,0,0]", "scaling.inner=[0, 0, 0]: unknown key; no keys here"),
        ("scaling=powers scaling.inner=[1,0]", "scaling.inner=[1.0, 0.0]: three exponents [a,b,c] between -4 and 4"),
        ("scaling=powers scaling.first=[0,0,99]", "scaling.first=[0.0, 0.0, 99.0]: three exponents"),
        ("scaling=powers scaling.first=[0,0,nan]", "scaling.first=[0.0, 0.0, nan]: three exponents"),
        ("scaling=powers scaling.output=[a,0,0]", "scaling.output"),
    ],
)
def test_bad_input(words: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One line that names key, value and what is allowed; exit code 2; nothing is written."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", *TINY, f"dir={tmp_path / 'r'}", *words.split()])
    out, err = capfd.readouterr()
    assert (stopped.value.code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "r").exists()


def test_powers_from_the_command_line(tmp_path: Path) -> None:
    """``scaling=powers`` with the NTK's rows computes what ``scaling=ntk`` does; with its defaults, the mean field."""
    ntk = ["scaling.first=[0,0,0]", "scaling.inner=[0.5,0,0]", "scaling.output=[0.5,0,0]"]
    init = ["init.mu2=0", "init.tau2=1.4142135623730951"]
    calls = {
        "ntk": ["scaling=ntk"],
        "as_ntk": ["scaling=powers", *ntk, "scaling.output_bias=[0,0,0]", *init],
        "mean_field": [],
        "as_mean_field": ["scaling=powers"],
    }
    for name, words in calls.items():
        assert cli.run(["train", *TINY, "schedule.multipliers=[1,2,0.5]", f"dir={tmp_path / name}", *words]) == 0
    frames = {name: pd.read_csv(tmp_path / name / "metrics.csv").drop(columns="wall_seconds") for name in calls}
    assert frames["ntk"].equals(frames["as_ntk"])
    assert frames["mean_field"].equals(frames["as_mean_field"])
    assert not frames["ntk"].equals(frames["mean_field"])


@pytest.mark.parametrize("name", ["ntk", "standard"])
def test_a_run_trains_at_the_scaling_s_rates(name: str, tmp_path: Path) -> None:
    """``mfrun train`` against the same batches by hand; schedule.multipliers multiply the scaling's rates."""
    words = [f"scaling={name}", "alpha=0.3", "dtype=float64", "schedule.multipliers=[1,2,0.5]"]
    assert cli.run(["train", *TINY, *words, f"dir={tmp_path / 'r'}"]) == 0
    experiment, trained, step = restore(RunDirectory(tmp_path / "r"))
    assert step == 3
    network, stream = experiment.network(), experiment.stream()
    start = [w.clone() for w in network.state().values()]
    ws = network.workspace(5)
    f = experiment.scaling.factors(network.widths)
    for k in range(3):
        x, y = stream.batch(k)
        D = Squared().gradient(y, network.forward(x, ws))
        network.descend(x, D, [0.3 * r * m / 5 for r, m in zip(f.rates, (1, 2, 0.5), strict=True)], ws)
    for mine, theirs, before in zip(trained.state().values(), network.state().values(), start, strict=True):
        torch.testing.assert_close(mine, theirs, **EXACT)
        assert not torch.allclose(mine, before)


def test_sweep_lays_the_regimes_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep over scaling=...; plot and compare tell the regimes apart by name."""

    keys = [k for k in TINY if not k.startswith(("width", "steps"))]
    assert (
        here("sweep", *keys, "steps=20", "widths=[4,8]", "scaling=mean_field,ntk,standard", f"dir={tmp_path / 's'}")
        == 0
    )
    scalings = ("mean_field", "ntk", "standard")
    runs = {f"width={n},scaling={s}" for n, s in itertools.product((4, 8), scalings)}
    assert {p.name for p in (tmp_path / "s").iterdir() if p.is_dir()} == runs
    capsys.readouterr()
    assert here("compare", str(tmp_path / "s"), "--metrics", "population_loss") == 0
    text = capsys.readouterr().out
    assert [text.count(f"scaling={s}") for s in scalings] == [1, 1, 1]
    assert here("plot", str(tmp_path / "s")) == 0
    assert (tmp_path / "s" / "curves.png").stat().st_size > 5_000
