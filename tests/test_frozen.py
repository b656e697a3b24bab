"""``architecture.frozen`` and ``architecture.output_scale``, at finite widths and in the limit."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from commands import curves, here

from mfrun.config import validated
from mfrun.dynamics.experiment import Experiment, assemble
from mfrun.shell.compose import compose

TASK = ["threads=1", "dataset.d=3", "depth=4", "alpha=0.02", "batch=10", "evaluation.samples=200", "init.tau3=0.3"]
FEW = ["particles.first=64", "particles.last=32", "particles.nodes=4"]


def experiment(*words: str) -> Experiment:
    return assemble(validated(compose([*TASK, "dtype=float64", *words], [])))


def after(e: Experiment, count: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The arrays at step 0 and after so many steps."""
    network = e.network()
    before = {name: array.clone() for name, array in network.state().items()}
    steps, k = e.steps(network, e.stream()), 0
    while k < count:
        k = steps.advance(k, count)
    return before, network.state()


@pytest.mark.parametrize("width", ["width=5", "width=inf"])
def test_frozen_layers_stay(width: str) -> None:
    """The first and the last layer, as in arXiv 1906.00193; all others move, their biases too."""
    before, now = after(experiment(width, *FEW, "architecture.frozen=[1,4]"), 20)
    for name, array in before.items():
        frozen = name.removeprefix("sets.")[1:] in ("1", "4")
        assert torch.equal(array, now[name]) == frozen, name


def test_a_frozen_layer_changes_nothing_else_in_a_step() -> None:
    """The others take the step that they take without it."""
    _, frozen = after(experiment("width=5", "architecture.frozen=[2]"), 1)
    _, free = after(experiment("width=5"), 1)
    for name in free:
        assert torch.equal(frozen[name], free[name]) == (name[1:] != "2"), name


@pytest.mark.parametrize("gamma", [0.5, 3.0])
def test_the_output_scale_against_autograd(gamma: float) -> None:
    """SGD on the loss of gamma yhat, every gradient times the widths, as without gamma."""
    n, steps = 5, 15
    e = experiment(f"width={n}", f"architecture.output_scale={gamma}")
    plain = experiment(f"width={n}").network()
    W, b = [[a[0].clone().requires_grad_() for a in arrays] for arrays in (plain.W, plain.b)]
    stream = e.stream()

    def outputs(x: torch.Tensor) -> torch.Tensor:
        a = torch.relu(W[0] @ x.T + b[0])
        for l in (1, 2):
            a = torch.relu(W[l] @ a / n + b[l])
        return gamma * (W[3] @ a / n + b[3])

    network, k = e.network(), 0
    dynamics = e.steps(network, stream)
    for step in range(steps):
        x, y = stream.batch(step)
        (outputs(x) - y).square().mean().backward()
        with torch.no_grad():
            for l, factor in enumerate((n, n * n, n * n, n)):
                W[l] -= e.cfg.alpha * factor * W[l].grad
                b[l] -= e.cfg.alpha * (n if l < 3 else 1) * b[l].grad
                W[l].grad = b[l].grad = None
    while k < steps:
        k = dynamics.advance(k, steps)
    x, _ = stream.batch(99)
    found = network.forward(x, network.workspace(len(x), backward=False))
    torch.testing.assert_close(found.view(1, -1), outputs(x).detach().view(1, -1), rtol=1e-9, atol=1e-10)


def test_a_large_output_scale_is_lazy() -> None:
    """At alpha / gamma^2 hidden weights move by 1 / gamma."""
    moved = []
    for gamma in (30.0, 300.0):
        # From an output of 0, so that gamma does not blow it up.
        words = ["init.mu2=0", "init.tau2=1", "architecture.output_scale=" + str(gamma), f"alpha={0.5 / gamma**2}"]
        before, now = after(experiment("width=400", "batch=50", *words), 50)
        moved.append(float((now["W1"] - before["W1"]).norm() / before["W1"].norm()))
    assert moved[0] / moved[1] == pytest.approx(10, rel=0.6)


@pytest.mark.parametrize("width", ["width=5", "width=inf"])
def test_a_run_goes_on(width: str) -> None:
    words = [*TASK, *FEW, width, "architecture.frozen=[1]", "architecture.output_scale=2"]
    assert here("train", *words, "steps=10", "dir=r") == 0
    assert here("train", "dir=r", "resume=true", "steps=20") == 0
    assert here("train", *words, "steps=20", "dir=whole") == 0
    assert curves("r") == curves("whole")


def test_finite_networks_reach_the_scaled_limit() -> None:
    words = [*TASK, "architecture.output_scale=2", "architecture.frozen=[4]", "particles.first=512", "steps=100"]
    assert here("sweep", *words, "widths=[10,100,inf]", "replicates=16", "dir=s") == 0
    assert here("compare", "s", "--metrics=population_loss") == 0
    gaps = pd.read_csv("s/compare.csv").set_index("width")["gap_of_mean"]
    assert gaps[100] < gaps[10] / 3


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("architecture.frozen=[0]", "architecture.frozen=[0]: the layers are 1 to 4"),
        ("architecture.frozen=[5]", "architecture.frozen=[5]: the layers are 1 to 4"),
        ("architecture.frozen=[a]", "architecture.frozen"),
        ("architecture.output_scale=0", "architecture.output_scale=0.0: must be a finite number > 0"),
    ],
)
def test_bad_input(word: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert here("train", *TASK, "width=5", "steps=1", "dir=r", word) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"mfrun: {said}"), error
    assert len(error.splitlines()) == 1
