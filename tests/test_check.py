"""The coordinate check: what it measures against autograd, its verdicts against known powers of n, and the command."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import here
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import LOSSES, forward

from mfrun import cli, config
from mfrun.dynamics.experiment import assemble
from mfrun.errors import UserError
from mfrun.seeds import generator
from mfrun.shell import commandline
from mfrun.shell.compose import compose
from mfrun.study.coordinate_check import (
    DEFAULTS,
    FINE,
    TOLERANCE,
    assemble_widths,
    judge,
    measure,
    table,
    text,
    verdict_of,
)
from mfrun.study.power_law import power_law

WIDTHS = [64, 128, 256, 512]
QUICK = ["threads=1", "depth=4", "dataset.d=6", "steps=3", "batch=50", "widths=[16,32,64,128]", "alpha=0.01"]


def check(*argv: str) -> tuple[pd.DataFrame, str]:
    """Without the shell and the picture: check.csv by layer and quantity, and what is printed."""
    words = [w for w in argv if w != "--train"]
    quick = [k for k in QUICK if not (k.startswith("dataset") and "dataset=arrays" in argv)]
    experiments = assemble_widths(compose([*commandline.over(DEFAULTS, quick), *words], []))
    found = judge(pd.concat(pd.DataFrame(measure(e, "--train" in argv)) for e in experiments))
    return table(found).set_index(["layer", "quantity"]), text(found)


# -- measuring -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("architecture", ["architecture.ratios=[1,2]", "architecture.biases=false"])
def test_sizes_and_changes_are_those_of_plain_pytorch(architecture: str, train: bool) -> None:
    """RMS of every array of the networks of the paper, by reference forward pass, autograd and the widths' factors."""
    keys = ["width=5", "depth=3", "steps=3", "replicates=2", "dataset.d=3", "batch=7", "alpha=0.2", "activation=tanh"]
    keys += ["dtype=float64", "init.tau3=0.5", "schedule=power", "schedule.p=0.5", architecture]
    experiment = assemble(config.validated(compose(keys, [])))
    got = pd.DataFrame(measure(experiment, train)).set_index(["step", "layer", "quantity"])

    network = experiment.network()
    biases = network.state().keys() >= {"b1"}
    leaves = {key: array.clone().requires_grad_() for key, array in network.state().items()}
    (samples,) = experiment.problem.evaluation(0, 200).values()
    ((x0, _),) = list(samples)
    widths = [1, *network.widths, 1]
    before: dict[tuple[int, str], torch.Tensor] = {}

    def signal(k: int) -> torch.Tensor:
        """N(0, 1), one number for each sample and output, the same for both networks."""
        return torch.randn((1, 7), generator=generator("error signal", 0, k)).double()

    for k in range(4):
        now: dict[tuple[int, str], list[torch.Tensor]] = {}
        loss = torch.zeros((), dtype=torch.float64)
        x, y = experiment.problem.stream(0, 7, "iid").batch(k)
        for s in range(2):
            W = [leaves[f"W{l}"][s] for l in (1, 2, 3)]
            b = [leaves[f"b{l}"][s] for l in (1, 2, 3)] if biases else None
            yhat = forward(W, b, "tanh", x)
            loss = loss + (LOSSES["squared"](y, yhat) if train else signal(k) * yhat).mean()
            for l in (1, 2, 3):
                # A network of l layers ends with h_l.
                h = forward(W[:l], b[:l] if b else None, "tanh", x0).detach()
                now.setdefault((l, "h"), []).append(h)
                now.setdefault((l, "W"), []).append(W[l - 1].detach().clone())
                if l < 3:
                    now.setdefault((l, "a"), []).append(torch.tanh(h))
        stacked = {key: torch.stack(arrays) for key, arrays in now.items()}
        assert {key[1:] for key in got.index if key[0] == k} == set(stacked)
        for (layer, quantity), array in stacked.items():
            row = got.loc[k, layer, quantity]
            assert row["rms"] == pytest.approx(array.square().mean().sqrt().item(), rel=1e-10)
            if k == 0:
                assert math.isnan(row["change"])
            else:
                expected = (array - before[layer, quantity]).square().mean().sqrt().item()
                assert row["change"] == pytest.approx(expected, rel=1e-8)
        before = stacked
        loss.backward()
        with torch.no_grad():
            for key, leaf in leaves.items():
                l = int(key[1:])
                factor = widths[l] * (widths[l - 1] if key[0] == "W" else 1)
                leaf -= 0.2 * (k + 1) ** -0.5 * factor * leaf.grad
                leaf.grad = None


# -- judging ---------------------------------------------------------------------------------------------------------


@settings(max_examples=200, derandomize=True)
@given(exponent=st.floats(-3, 3), C=st.floats(1e-8, 1e8))
def test_powers_are_recovered(exponent: float, C: float) -> None:
    law = power_law(WIDTHS, [C * n**exponent for n in WIDTHS])
    assert law.exponent == pytest.approx(exponent, abs=1e-9)
    assert math.log(law.C) == pytest.approx(math.log(C), abs=1e-8)
    # The line's standard error is NaN where rounding makes it the root of a negative number.
    assert not law.low > exponent + 1e-7
    assert not law.high < exponent - 1e-7


def test_interval_of_the_exponent_holds_it_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    trials = 600
    noise = np.exp(0.2 * rng.standard_normal((trials, len(WIDTHS))))
    laws = [power_law(WIDTHS, np.sqrt(WIDTHS) * row) for row in noise]
    share = np.mean([law.low < 0.5 < law.high for law in laws])
    assert abs(share - 0.95) < 3 * math.sqrt(0.95 * 0.05 / trials)
    assert math.isnan(power_law([1, 2], [3, 4]).low)
    assert math.isnan(power_law([1], [3]).exponent)


@settings(max_examples=200, derandomize=True)
@given(exponent=st.floats(-3, 3).filter(lambda e: abs(abs(e) - TOLERANCE) > 1e-6), C=st.floats(1e-8, 1e8))
def test_verdict_of_a_power(exponent: float, C: float) -> None:
    verdict = verdict_of({n: C * n**exponent for n in WIDTHS})[1]
    assert verdict == ("exploding" if exponent > TOLERANCE else "vanishing" if exponent < -TOLERANCE else "O(1)")


@pytest.mark.parametrize(
    ("sizes", "verdict"),
    [
        ([0.0, 0.0, 0.0, 0.0], "zero"),
        ([0.2, 0.1, 0.0, 0.0], "vanishing"),
        ([0.0, 1.0, 1.0, 1.0], "O(1)"),
        ([1.0, 1.0, 1.0, math.inf], "exploding"),
        ([1.0, math.nan, math.nan, math.nan], "exploding"),
        ([1 + 3 * n**-0.5 for n in WIDTHS], "O(1)"),
        ([1 + 20 / n for n in WIDTHS], "O(1)"),
        ([1 + n**0.5 for n in WIDTHS], "exploding"),
        ([n**-0.5 + 1e-9 for n in WIDTHS], "vanishing"),
    ],
)
def test_verdicts_of_what_is_no_power(sizes: list[float], verdict: str) -> None:
    """Zeros, overflow, and constants that are reached from afar."""
    assert verdict_of(dict(zip(WIDTHS, sizes, strict=True)))[1] == verdict


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["activation=relu init.tau3=0.3", "activation=tanh init.mu3=0.5"])
def test_mean_field_is_of_order_one_in_every_layer(words: str) -> None:
    frame, out = check("replicates=8", *words.split())
    assert set(frame["verdict"]) == {"O(1)"}
    assert len(frame) == 3 * 6 + 4
    assert (frame.loc[(slice(None), ["W", "change of W"]), "n=128"] > 0).all()
    verdicts = out[out.index("\n\n") :].splitlines()
    assert {"layer 1  O(1)", "layer 2  O(1)", "layer 3  O(1)", "output   O(1)"} <= set(verdicts)


def test_files(tmp_path: Path) -> None:
    """check.csv is the root mean square of check_steps.csv over the steps."""
    assert cli.run(["check", *QUICK, "replicates=2", f"dir={tmp_path / 'c'}"]) == 0
    frame = pd.read_csv(tmp_path / "c" / "check.csv").set_index(["layer", "quantity"])
    steps = pd.read_csv(tmp_path / "c" / "check_steps.csv")
    assert set(steps["n"]) == {16, 32, 64, 128}
    assert set(steps["step"]) == {0, 1, 2, 3}
    rows = steps[(steps["n"] == 64) & (steps["layer"] == 2) & (steps["quantity"] == "W")]
    assert frame.loc[(2, "W"), "n=64"] == pytest.approx(math.sqrt((rows["rms"] ** 2).mean()), rel=1e-9)
    changes = rows["change"].dropna()
    assert frame.loc[(2, "change of W"), "n=64"] == pytest.approx(math.sqrt((changes**2).mean()), rel=1e-9)
    assert (tmp_path / "c" / "check.png").stat().st_size > 20_000


def test_symmetric_starts_are_told_from_wrong_scalings() -> None:
    """Averages of an odd sigma are 0 at the start of the limit, and of order 1 once the weights have moved."""
    frame, out = check("replicates=16", "activation=tanh")
    assert set(frame["verdict"]) <= set(FINE)
    for l, quantity in ((2, "h"), (2, "a"), (3, "h"), (3, "change of W"), (4, "yhat"), (4, "change of W")):
        assert frame.loc[(l, quantity), "verdict"] == "starts at 0"
        assert frame.loc[(l, quantity), "exponent"] == pytest.approx(-0.5, abs=0.15)
    assert "output   O(1)" in out


def test_weights_of_mean_zero_stop_the_layers_below() -> None:
    """No failure is explained away: with mu2 = 0, averages over output weights cancel and W_1 does not move."""
    frame, _ = check("replicates=16", "init.mu2=0")
    assert frame.loc[(1, "change of W"), "verdict"] == "vanishing"
    assert frame.loc[(1, "change of h"), "verdict"] == "vanishing"


def test_ntk_is_lazy() -> None:
    """The output moves by O(1), pre-activations by n^-1/2, inner weights by n^-1 and the others by n^-1/2."""
    frame, out = check("scaling=ntk", "replicates=32")
    exponents = frame["exponent"]
    for l in (1, 2, 3):
        for quantity in ("h", "a", "W"):
            assert exponents[l, quantity] == pytest.approx(0, abs=0.1)
        for quantity in ("change of h", "change of a"):
            assert exponents[l, quantity] == pytest.approx(-0.5, abs=0.15)
    for l, theory in {1: -0.5, 2: -1.0, 3: -1.0, 4: -0.5}.items():
        assert exponents[l, "change of W"] == pytest.approx(theory, abs=0.15)
    for quantity in ("yhat", "change of yhat"):
        assert frame.loc[(4, quantity), "verdict"] == "O(1)"
    assert "layer 2  vanishing: change of h, change of a, change of W" in out


def test_standard_explodes() -> None:
    """A step at one rate moves the output by O(n) and inner pre-activations by n^1/2; W_l starts at n^-1/2.

    Without the first layer and the biases, which move the output by O(1) and hide the power of n where it is small.
    """
    keys = ["architecture.biases=false", "schedule.multipliers=[0,1,1,1]"]
    frame, out = check("scaling=standard", "replicates=16", "widths=[64,128,256]", *keys)
    exponents = frame["exponent"]
    assert exponents[4, "change of yhat"] == pytest.approx(1, abs=0.15)
    assert exponents[3, "change of h"] == pytest.approx(0.5, abs=0.15)
    assert [exponents[l, "W"] for l in (1, 2, 3, 4)] == pytest.approx([0, -0.5, -0.5, -0.5], abs=0.05)
    assert "layer 3  exploding: change of h, change of a; vanishing: W, change of W" in out
    assert "output   exploding: change of yhat\n" in out


WRONG = {
    # Gradients of inner weights times n, not n^2.
    "scaling.inner=[1,0,-1]": {2: "vanishing: change of W", 3: "vanishing: change of W"},
    # Plain gradients at the output, or in the first layer.
    "scaling.output=[1,0,0]": {4: "vanishing: change of W"},
    "scaling.first=[0,0,0]": {1: "vanishing: change of h, change of a, change of W"},
    # Sums divided by sqrt n.
    "scaling.inner=[0.5,0,-2]": {2: "exploding: h, a", 3: "exploding: h, a", 4: "exploding: yhat"},
}


@pytest.mark.parametrize("row", WRONG)
def test_wrong_scalings_are_found_in_their_layers(row: str) -> None:
    """A wrong rate is found in its own layers and no others; a wrong multiplier in its own and what they feed."""
    frame, out = check("scaling=powers", row, "replicates=8", "alpha=1e-6")
    verdicts = out[out.index("\n\n") :]
    for layer, words in WRONG[row].items():
        assert f"{f'layer {layer}' if layer < 4 else 'output':<8} {words}" in verdicts
    if "0.5" not in row:
        others = set(range(1, 5)) - set(WRONG[row])
        assert all(set(frame.loc[layer, "verdict"]) == {"O(1)"} for layer in others)


def test_a_frozen_layer_is_no_failure() -> None:
    """What is 0 at every n does not depend on n."""
    frame, _ = check("replicates=4", "schedule.multipliers=[0,1,1,1]")
    assert set(frame["verdict"]) <= set(FINE)
    assert frame.loc[(1, "change of W"), "verdict"] == frame.loc[(1, "change of h"), "verdict"] == "zero"
    assert frame.loc[(2, "change of W"), "verdict"] == "O(1)"


def test_overflow_is_an_explosion() -> None:
    frame, out = check("--train", "replicates=2", "alpha=1e60", "activation=linear")
    assert frame.loc[(4, "change of yhat"), "verdict"] == "exploding"
    assert "output   exploding" in out


def test_signals_of_a_softmax_cancel(tmp_path: Path) -> None:
    """They sum to 0 over classes whose output weights have one mean: with --train, W_1 stands still in the limit."""
    rng = np.random.default_rng(0)
    arrays = {f"x_{s}": rng.standard_normal((200, 6)) for s in ("train", "test")}
    np.savez(tmp_path / "a.npz", **arrays, y_train=np.arange(200) % 3, y_test=np.arange(200) % 3)
    keys = ["dataset=arrays", f"dataset.path={tmp_path / 'a.npz'}", "loss=cross_entropy", "replicates=8"]
    frame, _ = check(*keys)
    assert set(frame["verdict"]) <= set(FINE)
    frame, _ = check(*keys, "--train")
    assert frame.loc[(1, "change of W"), "exponent"] == pytest.approx(-0.5, abs=0.2)
    assert frame.loc[(4, "change of W"), "verdict"] == "O(1)"


def test_convolutional_networks(tmp_path: Path) -> None:
    """Filters are neurons: O(1) under the mean field scaling; other scalings are refused in a line."""
    rng = np.random.default_rng(0)
    arrays = {f"x_{s}": rng.integers(0, 256, (40, 6, 6, 2), dtype=np.uint8) for s in ("train", "test")}
    np.savez(tmp_path / "a.npz", **arrays, y_train=np.arange(40) % 3, y_test=np.arange(40) % 3)
    keys = ["dataset=arrays", f"dataset.path={tmp_path / 'a.npz'}", "loss=cross_entropy", "architecture=cnn"]
    keys += ["architecture.layers=[{stride:2},{pool:2}]", "depth=3", "replicates=4", "batch=10"]
    frame, _ = check(*keys)
    assert set(frame["verdict"]) == {"O(1)"}
    assert len(frame) == 2 * 6 + 4
    with pytest.raises(UserError, match="scaling=ntk: is for dense layers; cnn ones take mean_field"):
        check(*keys, "scaling=ntk")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("widths=[8,16]", "widths=[8,16]: a power of n is fitted to at least three widths"),
        ("widths=[8,16,16]", "widths=[8,16,16]: a power of n is fitted to at least three widths"),
        ("widths=[8,16,32,inf]", "widths=[8,16,32,inf]: the check is about finite widths"),
        ("width=8", "width=8: the check compares widths=[...]"),
        ("scaling=ntk,standard", "scaling=ntk,standard: several values; one check is of one setting"),
        ("steps=0", "steps=0: changes from step to step need at least one"),
        ("widths=[8,16,0]", "widths=0: a width is a whole number"),
        ("scaling=mup", "scaling=mup: unknown; one of mean_field, ntk, powers, standard"),
        ("dataset.delta=7", "dataset.delta=7.0"),
    ],
)
def test_bad_input(words: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 2, nothing written."""
    assert here("check", "threads=1", f"dir={tmp_path / 'c'}", words) == 2
    said = capfd.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "c").exists()


def test_from_the_shell(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The exit code of a failed check, and the configuration that a check would use."""

    def mfrun(*argv: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mfrun", "check", *argv]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)

    words = ["threads=1", "dataset.d=3", "widths=[4,8,16]", "replicates=2", "scaling=standard", f"dir={tmp_path}/c"]
    assert here("check", *words) == 1
    assert "Traceback" not in capfd.readouterr().err
    written = {p.name for p in (tmp_path / "c").iterdir()}
    assert written == {"check.csv", "check_steps.csv", "check_types.csv", "check.png"}
    assert here("check", "--help") == 0
    said = capfd.readouterr().out
    assert all(name in said for name in written)
    printed = mfrun("--cfg", "job", "depth=5").stdout
    assert "replicates: 16\n" in printed
    assert "depth: 5\n" in printed
