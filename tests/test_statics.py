"""Sub-networks of a trained network: exact identities, and the rates of Appendix B."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from mfrun.cli import _run
from mfrun.experiment import restore
from mfrun.networks.activations import Tanh
from mfrun.networks.build import DenseArchitecture, Init, build
from mfrun.networks.dense import Dense, Workspace
from mfrun.networks.laws import Normal
from mfrun.networks.measures import Measure
from mfrun.networks.particles import Particles
from mfrun.run import RunDirectory
from mfrun.study.statics import subnetworks

INIT = Init(Normal(), 1.4, 1.0, 0.7, 0.1, 0.5)


def network(width: float) -> Dense:
    """Three hidden layers with biases, two outputs, float64."""
    small = Particles(first=64, last=64, nodes=4, sets=2)
    return build(
        DenseArchitecture(),
        Tanh(),
        INIT,
        width=width,
        depth=4,
        d=3,
        n_out=2,
        particles=small,
        dtype=torch.float64,
    )


def forward(net: Dense, x: torch.Tensor) -> torch.Tensor:
    """yhat (S, n_out, B)."""
    return net.forward(x, Workspace(net, len(x), backward=False)).view(net.replicates, net.n_out, -1).clone()


def test_a_network_and_its_own_empirical_measure_agree() -> None:
    """Behind Eq. (54): a finite network is the particle system of its empirical measure, to rounding."""
    net, x = network(9), torch.randn(5, 3, dtype=torch.float64)
    weights = [torch.full((1, 9, 1), 1 / 9, dtype=torch.float64)] * 3
    same = Dense(net.W, net.b, [Measure(1.0, w) for w in weights], net.activation)
    assert forward(net, x) == pytest.approx(forward(same, x).numpy(), rel=1e-13)


@pytest.mark.parametrize("width", [7, math.inf])
def test_mutual_weights_are_kept(width: float) -> None:
    """Every entry of a drawn W_l is the entry of the two types drawn: found again by matching rows and columns."""
    net = network(width)
    sub = subnetworks(net, net.replicates - 1, 5, 3, seed=1)
    member = net.replicates - 1
    for draw in range(3):
        below = None
        for l, (W, b) in enumerate(zip(sub.W[:-1], sub.b or [], strict=False)):
            # Biases are distinct within a layer here, but for the limit's layer 1 and L, whose rows tell them apart.
            whole = torch.cat([net.b[l][member], net.W[l][member] if l == 0 else net.W[l + 1][member].T], 1)
            drawn = torch.cat([b[draw], W[draw] if l == 0 else sub.W[l + 1][draw].T], 1) if l in (0, 2) else b[draw]
            whole = whole if l in (0, 2) else net.b[l][member]
            types = (drawn.unsqueeze(1) == whole.unsqueeze(0)).all(-1).double().argmax(1)
            if below is not None:
                assert torch.equal(W[draw], net.W[l][member][types][:, below])
            below = types


def test_draws_follow_the_measure() -> None:
    """The average of many sub-networks' first-layer biases is the bias's average under p (law of large numbers)."""
    net = network(math.inf)
    sub = subnetworks(net, 0, 1, 20_000, seed=0)
    p = net.p[2].probabilities(net.widths[1], 0)
    values = net.b[1][0, :, 0]
    mean, variance = float(p @ values), float(p @ values**2) - float(p @ values) ** 2
    assert abs(float(sub.b[1].mean()) - mean) < 5 * math.sqrt(variance / 20_000)


def test_rates_of_a_trained_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """E|yhat_n - yhat| ~ n^-1/2 (Eq. 66), and the expected squared loss exceeds the limit's like n^-1."""
    keys = ["depth=4", "steps=30", "dataset.d=4", "alpha=0.01", "evaluation.samples=200", "threads=1"]
    run = tmp_path / "run"
    assert _run(["train", *keys, "width=inf", "particles.first=512", f"dir={run}"]) == 0
    capsys.readouterr()
    assert _run(["statics", str(run), "--widths", "8,16,32,64,128", "--draws", "64", "--samples", "200"]) == 0
    lines = {line.split(" ~ ")[0]: line for line in capsys.readouterr().out.splitlines() if " ~ n^-" in line}
    low, high = (float(v) for v in lines["E|yhat_n - yhat|"].split("[")[1].rstrip("]").split(","))
    assert low < 0.5 < high or abs(0.5 - (low + high) / 2) < 0.05
    assert float(lines["gap in expected loss"].split("n^-")[1].split()[0]) == pytest.approx(1.0, abs=0.25)
    assert (run / "statics.csv").exists()
    assert (run / "statics.png").stat().st_size > 5_000


def test_restored_network_is_the_one_that_was_saved(tmp_path: Path) -> None:
    """Its loss is the last row's."""
    run = tmp_path / "run"
    keys = ["width=6", "steps=20", "replicates=2", "evaluation.samples=100", "dtype=float64", "threads=1"]
    assert _run(["train", *keys, f"dir={run}"]) == 0
    experiment, net, step = restore(RunDirectory(run))
    assert step == 20
    (samples,) = experiment.problem.evaluation(0, 100).values()
    ((x, y),) = list(samples)
    losses = experiment.loss.value(y, forward(net, x)).mean(-1)
    rows = RunDirectory(run).metrics()
    assert rows[rows["step"] == 20]["population_loss"].tolist() == pytest.approx(losses.tolist(), rel=1e-8)


@pytest.mark.parametrize(
    ("argv", "words"),
    [(["statics", "nowhere"], "no such file"), (["statics", "nowhere", "--widths", "0"], "at least 1")],
)
def test_bad_input(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 2."""
    assert _run(argv) == 2
    assert words in capsys.readouterr().err
