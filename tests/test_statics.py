"""Sub-networks of a trained network: exact identities, and the rates of Appendix B."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Init, build

from mfrun import cli
from mfrun.dynamics.experiment import restore
from mfrun.networks.activations import Tanh
from mfrun.networks.dense import Dense
from mfrun.networks.fully_connected import DenseArchitecture
from mfrun.networks.laws import Normal
from mfrun.networks.particles import Particles
from mfrun.runs.directory import RunDirectory
from mfrun.study.statics import measure
from mfrun.study.subnetworks import empirical_measure, subnetworks

INIT = Init(Normal(), 1.4, 1.0, 0.7, 0.1, 0.5)


def network(width: float, biases: bool = True) -> Dense:
    """Two stacked networks of three hidden layers, two outputs, float64."""
    small = Particles(first=64, last=64, nodes=4, sets=2)
    return build(
        DenseArchitecture(biases=biases),
        Tanh(),
        INIT,
        width=width,
        depth=4,
        d=3,
        n_out=2,
        replicates=1 if math.isinf(width) else 2,
        particles=small,
        dtype=torch.float64,
    )


def forward(net: Dense, x: torch.Tensor) -> torch.Tensor:
    """yhat (S, n_out, B)."""
    return net.forward(x, net.workspace(len(x), backward=False)).view(net.replicates, net.n_out, -1).clone()


@given(width=st.sampled_from([5, math.inf]), n=st.integers(1, 40), seed=st.integers(0, 1000), biases=st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_network_and_its_own_empirical_measure_agree(width: float, n: int, seed: int, biases: bool) -> None:
    """Behind Eq. (54): a drawn network, which has copies of neurons, is the particle system of its types."""
    net, x = network(width, biases), torch.randn(5, 3, dtype=torch.float64)
    drawn = subnetworks(net, 1, n, 2, seed)
    system = empirical_measure(drawn, 1)
    assert forward(system, x)[0].numpy() == pytest.approx(forward(drawn, x)[1].numpy(), rel=1e-11, abs=1e-12)
    # As many types as different neurons were drawn, weighted by their copies.
    assert system.widths[0] == len(torch.unique(drawn.W[0][1], dim=0))
    assert all(k <= min(n, whole) for k, whole in zip(system.widths, net.widths, strict=True))
    for l, k in enumerate(system.widths, 1):
        copies = system.p[l].probabilities(k) * n
        assert copies.numpy() == pytest.approx(copies.round().numpy(), abs=1e-9)


def test_a_network_without_copies_is_its_own_empirical_measure() -> None:
    """No type is lost: nine neurons are nine types of weight 1/9."""
    net, x = network(9), torch.randn(5, 3, dtype=torch.float64)
    system = empirical_measure(net, 0)
    assert system.widths == [9, 9, 9]
    assert forward(net, x)[0].numpy() == pytest.approx(forward(system, x)[0].numpy(), rel=1e-12)


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


def test_seeds_share_no_draws() -> None:
    """Nor do the first and the later draws of one, which are made a few at a time."""
    net = network(math.inf)
    drawn = [subnetworks(net, 0, 30, 1, seed, first).W[0] for seed in range(3) for first in range(3)]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(drawn, 2))


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
    assert cli.run(["train", *keys, "width=inf", "particles.first=512", f"dir={run}"]) == 0
    capsys.readouterr()
    assert cli.run(["statics", str(run), "--widths", "8,16,32,64,128", "--draws", "64", "--samples", "200"]) == 0
    lines = {line.split(" ~ ")[0]: line for line in capsys.readouterr().out.splitlines() if " ~ n^-" in line}
    low, high = (float(v) for v in lines["E|yhat_n - yhat|"].split("[")[1].rstrip("]").split(","))
    assert low < 0.5 < high or abs(0.5 - (low + high) / 2) < 0.05
    assert float(lines["gap in expected loss"].split("n^-")[1].split()[0]) == pytest.approx(1.0, abs=0.25)
    assert (run / "statics.csv").exists()
    assert (run / "statics.png").stat().st_size > 5_000


def test_two_layers_have_a_known_answer(tmp_path: Path) -> None:
    """With one hidden layer, yhat_n is an average of n draws of beta a(x): the squared loss exceeds the whole's by the
    average over x of Var_p(beta a(x)) / n, and E|yhat_n - yhat| is sqrt(2 / pi) standard deviations over sqrt n."""
    run, keys = tmp_path / "run", ["depth=2", "steps=20", "dataset.d=4", "dtype=float64", "threads=1", "init.tau2=1"]
    assert cli.run(["train", *keys, "width=60", "evaluation.samples=100", f"dir={run}"]) == 0
    experiment, net, _ = restore(RunDirectory(run))
    (samples,) = experiment.problem.evaluation(0, 100).values()
    ((x, _),) = list(samples)
    neurons = net.W[1][0].T * torch.relu(net.W[0][0] @ x.T + net.b[0][0])
    variance = neurons.var(0, correction=0)
    frame = measure(experiment, net, samples, [4, 64], 2000, seed=3).set_index("n")
    for n in (4, 64):
        assert abs(frame["loss_gap"][n] - float(variance.mean()) / n) < 4.5 * frame["loss_gap_se"][n]
    known = math.sqrt(2 / math.pi / 64) * float(variance.sqrt().mean())
    assert frame["difference"][64] == pytest.approx(known, rel=0.02)


def test_every_n_draws_from_the_same_replicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few of its draws fit in memory at once: rows of other networks would have no rate in common."""
    run, keys = tmp_path / "run", ["steps=1", "dataset.d=3", "evaluation.samples=20", "threads=1", "replicates=3"]
    assert cli.run(["train", *keys, "width=5", f"dir={run}"]) == 0
    experiment, net, _ = restore(RunDirectory(run))
    (samples,) = experiment.problem.evaluation(0, 20).values()
    found: dict[int, list[int]] = {4: [], 900: []}

    def noted(network: Dense, member: int, n: int, draws: int, seed: int, first: int) -> Dense:
        found[n] += [member] * draws
        return subnetworks(network, member, n, draws, seed, first)

    monkeypatch.setattr("mfrun.study.statics.subnetworks", noted)
    measure(experiment, net, samples, list(found), 9, seed=0)
    assert all(members == [0, 0, 0, 1, 1, 1, 2, 2, 2] for members in found.values())


def test_rates_are_followed_through_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--step all takes every state that is kept; --step K the one of K, drawn and measured alike."""
    run, small = tmp_path / "run", ["--widths", "4,8,16,32", "--draws", "16", "--samples", "50"]
    keys = ["depth=3", "steps=100", "dataset.d=3", "evaluation.samples=50", "threads=1", "keep_checkpoints=1"]
    assert cli.run(["train", *keys, "width=30", f"dir={run}"]) == 0
    assert RunDirectory(run).saved_steps() == [0, 1, 10, 79, 100]
    assert cli.run(["statics", str(run), "--step", "all", *small]) == 0
    out = capsys.readouterr().out
    frame = pd.read_csv(run / "statics.csv")
    assert frame["step"].unique().tolist() == [0, 1, 10, 79, 100]
    assert frame["t"].tolist() == pytest.approx((frame["step"] * 0.001).tolist())
    assert "Eq. (54)" in out
    assert (run / "statics.png").stat().st_size > 10_000
    assert cli.run(["statics", str(run), "--step", "10", *small, "--out", str(tmp_path / "ten")]) == 0
    ten = pd.read_csv(tmp_path / "ten" / "statics.csv")
    pd.testing.assert_frame_equal(ten, frame[frame["step"] == 10].reset_index(drop=True))
    capsys.readouterr()
    assert cli.run(["statics", str(run), "--step", "11", *small]) == 2
    assert "no state of step 11; there are 0, 1, 10, 79, 100" in capsys.readouterr().err
    # What cannot be written is shown all the same.
    (tmp_path / "file").touch()
    assert cli.run(["statics", str(run), *small, "--out", "file/s"]) == 2
    said = capsys.readouterr()
    assert "Eq. (54)" in said.out
    assert said.err.splitlines() == ["mfrun: --out file/s: cannot be written (Not a directory)"]


def test_kept_states_outlive_a_resumed_run(tmp_path: Path) -> None:
    """What was kept stays, whatever the run that goes on keeps; the others make room."""
    run, keys = (
        tmp_path / "run",
        ["dataset.d=3", "width=4", "evaluation.samples=20", "threads=1", f"dir={tmp_path}/run"],
    )
    assert cli.run(["train", *keys, "steps=100", "keep_checkpoints=1", "budget=0.2"]) == 0
    assert RunDirectory(run).saved_steps() == [0, 1, 10, 16, 20]
    assert cli.run(["train", *keys, "resume=true", "budget=1", "keep_checkpoints=0"]) == 0
    # 20 was the end of the shorter run, which is kept.
    assert RunDirectory(run).saved_steps() == [0, 1, 10, 20, 79, 100]
    assert RunDirectory(run).config().steps == 100


def test_restored_network_is_the_one_that_was_saved(tmp_path: Path) -> None:
    """Its loss is the last row's."""
    run = tmp_path / "run"
    keys = ["width=6", "steps=20", "replicates=2", "evaluation.samples=100", "dtype=float64", "threads=1"]
    assert cli.run(["train", *keys, f"dir={run}"]) == 0
    experiment, net, step = restore(RunDirectory(run))
    assert step == 20
    (samples,) = experiment.problem.evaluation(0, 100).values()
    ((x, y),) = list(samples)
    losses = experiment.loss.value(y, forward(net, x)).mean(-1)
    rows = RunDirectory(run).metrics()
    assert rows[rows["step"] == 20]["population_loss"].tolist() == pytest.approx(losses.tolist(), rel=1e-8)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["statics", "nowhere"], "nowhere: no such folder"),
        (["statics", "."], "no run here"),
        (["statics", ".", "--widths", "0"], "at least 1"),
        (["statics", ".", "--step", "-1"], "the step of a saved state, or all"),
        (["statics", ".", "--step", "²"], "--step ²: the step of a saved state, or all"),
        (["statics", ".", "--latest"], "mfrun: --latest: and . names another; give one of them"),
        (["train", "keep_checkpoints=-1"], "keep_checkpoints=-1: must be at least 0"),
        (["train", "budget=0"], "lies in (0, 1]"),
    ],
)
def test_bad_input(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 2."""
    assert cli.run(argv) == 2
    assert words in capsys.readouterr().err
