"""Steps from a tape: what is replayed is what torch would have done, and what cannot be is left to torch."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import here
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import STARTS, factors
from torch import Tensor

import mfrun
from mfrun.config import validated
from mfrun.dynamics import replay
from mfrun.dynamics.experiment import Experiment, assemble
from mfrun.dynamics.steps import Eager, Lasting
from mfrun.dynamics.tape import Instruction, NotRecordable, Tape, record
from mfrun.dynamics.taped import Taped
from mfrun.networks.products import SMALL, Products
from mfrun.shell.compose import compose

TASK = ["depth=4", "width=12", "batch=20", "threads=1", "evaluation.samples=50"]

GAUSSIANS = ["dataset=gaussians", "dataset.d=6", *TASK]


def experiment(*words: str) -> Experiment:
    start = TASK if any(w.startswith("dataset=") for w in words) else GAUSSIANS
    return assemble(validated(compose([*start, *words], [])))


def images() -> list[str]:
    """Digits of a few pixels."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 3, 4), dtype=np.uint8), np.arange(40) % 3
    np.savez("images.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    return ["dataset=arrays", "dataset.path=images.npz"]


# --- The whole step.

COMPILED = [
    [],
    ["activation=tanh", "init.tau3=0.3"],
    ["activation=sigmoid", "replicates=3"],
    ["activation=linear", "alpha=0.01"],
    ["loss=logistic"],
    ["architecture.biases=false"],
    ["schedule=power", "schedule.p=0.4", "schedule.multipliers=[1,0.5,2,1]"],
    ["width=1e5", "neurons=8"],
    ["width=inf", "particles.first=256", "init.tau3=0.2"],
    ["perturbed=1", "width=inf", "predict.first=32", "activation=tanh"],
    ["replicates=2", "replicate_data=independent"],
    ["width=inf", "particles.first=64", "particles.sets=2", "replicates=2", "replicate_data=independent"],
    ["architecture.frozen=[1,4]", "architecture.ratios=[1,2,0.5]"],
    ["scaling=ntk", "init.mu2=0", "init.tau2=1", "alpha=0.1"],
    ["batch=1"],
    ["width=1"],
    ["images", "loss=cross_entropy", "replicates=2"],
    ["images", "loss=cross_entropy", "sampling=epochs"],
]
IN_PART = [
    ["images", "loss=squared"],
    ["activation=gelu"],
    ["activation=leaky_relu", "loss=huber", "loss.delta=0.3"],
    ["neuron=affine"],
    ["operation=of_sum"],
    ["width=300", "batch=100"],
]


@pytest.mark.parametrize("words", [*COMPILED, *IN_PART], ids=lambda words: "-".join(words) or "plain")
def test_a_tape_does_what_torch_does(words: list[str]) -> None:
    """Over the end of a block, and stops between; float32 rounds differently, and nothing else differs."""
    given = [part for word in words for part in (images() if word == "images" else [word])]
    states, e = [], experiment(*given)
    for kind in (Eager, Taped):
        network, stream = e.network(), e.stream()
        steps = kind(network, stream, e.loss, e.rates, e.cfg.batch)
        start = network.state()["W2"].clone()
        for k, end in itertools.pairwise([0, 7, 256, 300]):
            assert steps.advance(k, end) == end
        assert steps.yhat.shape[-2:] == (e.blueprint.n_out, e.cfg.batch)
        states.append(network.state())
        assert not torch.equal(start, network.state()["W2"])
        if kind is Taped:
            assert all(tape.compiled for tape in steps.tapes) == (words not in IN_PART)
    for name, array in states[0].items():
        torch.testing.assert_close(array, states[1][name], rtol=1e-3, atol=1e-4 * float(array.abs().max()))


def test_stacked_networks_with_long_inputs_stay_with_torch() -> None:
    e = experiment("dataset.d=2000", "replicates=2")
    with pytest.raises(NotRecordable, match="long inputs"):
        Taped(e.network(), e.stream(), e.loss, e.rates, e.cfg.batch)


def test_weights_are_put_back_where_recording_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that reads a value, and one that counts its calls, which a tape cannot repeat."""
    e = experiment()
    network, stream = e.network(), e.stream()
    start = {name: array.clone() for name, array in network.state().items()}
    loss, calls = e.loss, []

    class Reads(type(loss)):
        def gradient(self, y: Tensor, yhat: Tensor) -> Tensor:
            return super().gradient(y, yhat) if float(yhat.sum()) < 1e9 else yhat

    class Counts(type(loss)):
        def gradient(self, y: Tensor, yhat: Tensor) -> Tensor:
            calls.append(1)
            return super().gradient(y, yhat).mul_(len(calls))

    for kind, why in ((Reads, "_local_scalar_dense"), (Counts, "goes elsewhere")):
        with pytest.raises(NotRecordable, match=why):
            Taped(network, stream, kind(), e.rates, e.cfg.batch)
        assert all(torch.equal(array, start[name]) for name, array in network.state().items())
    steps = Lasting(network, stream, Reads(), e.rates, e.cfg.batch)
    monkeypatch.setattr(Lasting, "LONG", 0)
    assert steps.advance(0, 20) == 20
    assert not torch.equal(network.state()["W2"], start["W2"])


# --- In a run.


def test_which_runs_have_one() -> None:
    def kind(*words: str) -> type:
        e = experiment(*words)
        return type(e.steps(e.network(), e.stream()))

    assert kind() is Lasting
    assert kind("activation.name=torch.nn.functional:mish") is Eager
    assert kind("operation=function", "operation.function=torch:mul") is Eager
    assert kind("width=inf", "particles.first=64") is Lasting
    assert kind("dataset.d=784", "width=inf") is Eager
    assert kind("dtype=float64") is Eager
    assert kind("precision=bf16") is Eager
    assert kind("width=500", "batch=100") is Eager


def test_a_run_that_goes_on_is_the_run_it_would_have_been(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit: stopped before the tape and after it, made longer, and with two threads."""
    monkeypatch.setattr(Lasting, "LONG", 256)
    asked = []
    taped = Lasting._taped
    monkeypatch.setattr(Lasting, "_taped", lambda self: asked.append(1) or taped(self))
    words = [*GAUSSIANS, "replicates=3"]
    assert here("train", *words, "steps=800", "dir=whole") == 0
    assert here("train", *words, "steps=200", "dir=parts") == 0
    assert here("train", *words, "steps=500", "dir=parts", "resume=true") == 0
    assert here("train", *words, "steps=800", "dir=parts", "resume=true") == 0
    threads = [w for w in words if not w.startswith("threads")]
    assert here("train", *threads, "threads=2", "steps=800", "dir=threads") == 0
    assert len(asked) == 4
    frames = [mfrun.load(name).frame.drop(columns="wall_seconds") for name in ("whole", "parts", "threads")]
    shared = frames[0].merge(frames[1], on=["step", "replicate"], suffixes=("", "_parts"))
    assert len(shared) > 20
    assert shared["population_loss"].equals(shared["population_loss_parts"])
    assert frames[0].equals(frames[2])
    monkeypatch.setattr(Lasting, "LONG", 10**9)
    assert here("train", *words, "steps=800", "dir=eager") == 0
    eager = mfrun.load("eager").frame
    np.testing.assert_allclose(frames[0]["population_loss"], eager["population_loss"], rtol=1e-4)


def test_what_diverges_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lasting, "LONG", 0)
    assert here("train", *GAUSSIANS, "alpha=1e4", "steps=800", "dir=far") == 3
    assert mfrun.load("far").status["state"] == "diverged"


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_members_that_have_diverged_keep_no_other_from_its_tape(lost: float) -> None:
    """The others go on from it as they do where all are finite."""
    outputs = []
    for diverged in (False, True):
        e = experiment("replicates=3")
        network = e.network()
        if diverged:
            network.W[1][2, 0, 0] = lost
        steps = Taped(network, e.stream(), e.loss, e.rates, e.cfg.batch)
        assert all(tape.compiled for tape in steps.tapes)
        steps.advance(0, 40)
        outputs.append([array[:2].clone() for array in network.state().values()])
        assert bool(steps.yhat.flatten(1).isfinite().all(1)[2]) != diverged
    assert all(map(torch.equal, *outputs))


# --- Instructions one by one.


def done(*instructions: Instruction) -> None:
    Tape(list(instructions), []).replay(1)


VALUES = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(values=st.lists(VALUES, min_size=1, max_size=40))
def test_functions(values: list[float]) -> None:
    """Against float64: to a few roundings, and where there is no number, none comes out."""
    x = torch.tensor(values)
    for code, truth in ((replay.TANH, torch.tanh), (replay.SIGMOID, torch.sigmoid), (replay.RELU, torch.relu)):
        out = torch.empty_like(x)
        done(Instruction(code, out, x, None, (len(x),)))
        torch.testing.assert_close(out.double(), truth(x.double()), rtol=4e-7, atol=2e-38, equal_nan=True)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 20)),
    size=st.sampled_from([0.1, 10, 1e4]),
    seed=st.integers(0, 99),
)
def test_softmax(shape: tuple[int, int], size: float, seed: int) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size
    out = torch.empty_like(x)
    done(Instruction(replay.SOFTMAX, out, x, None, shape))
    torch.testing.assert_close(out.double(), x.double().softmax(0), rtol=1e-5, atol=1e-37)
    x[0, 0] = float("nan")
    done(Instruction(replay.SOFTMAX, out, x, None, shape))
    assert bool(out[:, 0].isnan().all())
    assert bool(out[:, 1:].isfinite().all())


@settings(deadline=None, max_examples=60, derandomize=True)
@given(arrays=factors(torch.float32), start=STARTS)
def test_products(arrays: tuple[Tensor, Tensor, Tensor, Tensor], start: str) -> None:
    """Matrices and stacks, as they are or transposed, in place, onto a column, and onto nothing."""
    A, B, column, before = arrays
    out = before.clone()
    write = Products(direct=False).prepare(out, A, B, {"none": None, "out": out, "column": column}[start])
    tape = record(lambda: write(-0.3))
    assert tape.compiled
    out.copy_(before)
    tape.replay(2 if start == "out" else 1)
    added = {"none": 0, "out": before - 0.3 * A @ B, "column": column}[start]
    torch.testing.assert_close(out, added - 0.3 * A @ B, rtol=1e-5, atol=1e-5)


def test_a_large_product_is_torchs() -> None:
    side = round(SMALL ** (1 / 3)) + 2
    A, out = torch.randn(side, side), torch.zeros(side, side)
    tape = record(lambda: torch.addmm(out, A, A, out=out))
    assert not tape.compiled
    out.zero_()
    tape.replay(3)
    torch.testing.assert_close(out, 3 * A @ A, rtol=1e-4, atol=1e-3)


def test_arrays_that_the_loop_does_not_take() -> None:
    """Other types, strides and shapes go to torch, whatever the operation."""
    x, y = torch.randn(4, 6), torch.randn(4, 6)
    double, out, index = x.double(), torch.zeros(4, 6), torch.tensor([3, 0])
    results: dict[str, Tensor] = {}

    def step() -> None:
        results["double"] = double * 2
        results["strided"] = x.T * y.T
        results["broadcast"] = x[:, :1] * y
        results["rows"] = x.index_select(0, index)
        results["columns"] = x.index_select(1, index)
        results["softmax"] = torch.softmax(x, 1)
        results["sub"] = torch.sub(x, y, alpha=2)
        results["spread"] = out.copy_(y[:1])
        results["two"] = torch.stack(torch.max(x, 1)[:1])
        results["fresh"] = torch.empty(3).fill_(2.0)

    tape = record(step)
    x.copy_(torch.randn(4, 6))
    double.copy_(x)
    index.copy_(torch.tensor([1, 2]))
    out.zero_()
    kept = dict(results)
    tape.replay(1)
    step()
    for name, array in results.items():
        torch.testing.assert_close(kept[name], array, rtol=1e-6, atol=1e-7)


def test_the_compiled_loop_is_kept_on_disk() -> None:
    """The second process does not compile again."""
    ask = """
import numpy as np
from mfrun.dynamics import replay
replay.replay(np.zeros((0, replay.WIDTH), dtype=np.int64), np.zeros((0, 2), dtype=np.float32), 1)
print(sum(replay._replay.stats.cache_hits.values()))
"""
    here = {**os.environ, "NUMBA_CACHE_DIR": str(Path("kept").absolute())}
    said = [subprocess.run([sys.executable, "-c", ask], env=here, capture_output=True, text=True).stdout for _ in "ab"]
    assert said == ["0\n", "1\n"]
