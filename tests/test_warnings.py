"""Values that are legal but seldom meant: one line for each, once for a command, and none where nothing is suspect."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ARRAYS, LIMIT, TINY, here
from formats import write_arrays
from hypothesis import given, settings
from hypothesis import strategies as st
from test_figures import CAPTIONS

from mfrun.config import validated
from mfrun.dynamics.experiment import assemble
from mfrun.dynamics.schedules import FLAT, Constant, Cosine, Exponential, Piecewise, Power, Rates, Schedule
from mfrun.dynamics.warnings import kernels_of_one_label, ties_in_pooling, warn
from mfrun.problems.datasets import IsotropicGaussians
from mfrun.shell.compose import compose

# (words of the command line, what is said of the key; "" for nothing). steps * alpha = 100 * 0.1 = 10.
TEN = ["steps=100", "alpha=0.1"]
# Neurons with more coordinates than a grid has nodes for: b, theta and, in layer L, beta.
MANY = ["init.tau3=0.5", "neuron=affine", "neuron.deviations=[0.3,0.3]"]
EXPECTED = [
    ([], ""),
    (["schedule.warmup=11"], "schedule.warmup=11.0: the run, which ends at t = .* = 10, reaches 0.91 of the rate"),
    (["schedule.warmup=10"], ""),
    (["schedule=exponential", "schedule.time=300"], "schedule.time=300.0: .* lowers xi to 0.967 only"),
    (["schedule=exponential", "schedule.time=100"], ""),
    (["schedule=cosine", "schedule.time=100"], "schedule.time=100.0: .* lowers xi to 0.976 only"),
    (["schedule=cosine", "schedule.time=30"], ""),
    (["schedule=cosine"], ""),
    (["schedule=cosine", "schedule.time=100", "schedule.final=1"], ""),
    (["schedule=piecewise", "schedule.times=[30,60]"], r"schedule.times=\[30.0, 60.0\]: .* does not come to 30"),
    (["schedule=piecewise", "schedule.times=[5,60]"], r"schedule.times=\[5.0, 60.0\]: .* does not come to 60"),
    (["schedule=piecewise", "schedule.times=[5,9]"], ""),
    (["schedule=power"], ""),
    # A tenth of a run is judged as the whole is.
    (["schedule=piecewise", "schedule.times=[5,9]", "budget=0.1"], ""),
    (["schedule=piecewise", "schedule.times=[5,60]", "steps=0"], ""),
    (["width=inf", "particles.first=128"], "particles.first=128: fewer than 256"),
    (["width=inf", "particles.last=48", *MANY], "particles.last=48: fewer than 64"),
    (["width=inf", "particles.last=48", "init.tau3=0.5"], ""),
    (["width=inf", "init=embedding", "particles.inner=48"], "particles.inner=48: fewer than 64"),
    (["width=inf", "init=embedding", "particles.inner=48", "depth=3"], ""),
    (["width=inf", "init=embedding", "init.m=2", "particles.inner=48"], ""),
    (["width=inf", "particles.inner=48", *MANY], "particles.inner=48: fewer than 64"),
    (["width=inf", "particles.inner=48"], ""),
    (["width=inf", "perturbed=1", "particles.first=128"], ""),
    (["width=1000", "neurons=64"], "neurons=64: 64 neurons of layer 1 represent the law of w in 32 dimensions"),
    (["width=1000", "neurons=64", "stand_in.first=256"], ""),
    (
        ["width=1000", "neurons=256", "dataset.d=1028"],
        "neurons=256: 256 neurons of layer 1 represent .* 1028 dimensions",
    ),
    (["width=1000", "neurons=256", "dataset.d=1024"], ""),
    (["width=1000", "neurons=64", "stand_in.first=258", "dataset.d=1028"], ""),
    (["width=1e11", "neurons=256"], ""),
    (
        ["width=1e12", "neurons=256"],
        "dtype=float32: numbers of the size of inner weights are up to 1.2e-07 apart, .* n = 1e12 is 1.6e-06: .*",
    ),
    (["width=1e14", "neurons=256", "dtype=float64"], ""),
    (["width=1e14", "neurons=256", "init.tau2=2"], ""),
    (["width=1e14", "neurons=256", "init.mu2=0"], "dtype=float32: "),
    (["width=1e14", "neurons=256", "init.mu2=-1e3", "init.tau2=2"], "dtype=float32: .* are up to 0.00012 apart"),
    (["width=1e14", "neurons=256", "init.tau2=0"], ""),
    (["width=1e14", "neurons=256", "depth=2"], ""),
    (["width=1e14", "neurons=256", "init=embedding", "init.noise=0.1", "init.tau=0"], "dtype=float32: .*"),
    (["width=1e14", "neurons=256", "init=embedding", "init.noise=0.1"], ""),
    (["width=1e14", "neurons=256", "precision=bf16"], "dtype=float32: .*"),
    (["width=1e5", "neurons=256", "precision=bf16"], "precision=bf16: .* up to 0.0078 apart, .* is 0.0051: .*"),
    (["width=1e4", "neurons=256", "precision=bf16"], ""),
    (["width=inf", "perturbed=1"], ""),
    (["width=inf", "perturbed=1", "predict.width=1000000000000"], "dtype=float32: .* n = 1e12 is 4e-07"),
    (["width=inf", "particles.first=256", "particles.last=64"], ""),
    (["particles.first=32"], ""),
]


@pytest.mark.parametrize(("words", "line"), EXPECTED, ids=[" ".join(w) or "defaults" for w, _ in EXPECTED])
def test_rules(words: list[str], line: str, capfd: pytest.CaptureFixture[str]) -> None:
    warn([assemble(validated(compose([*TEN, *words], [])))])
    err = capfd.readouterr().err
    assert re.fullmatch(f"mfrun: warning: {line}.*\n" if line else "", err), err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["batch=20"], ""),
        (["batch=21"], "batch=21: the training set has 20 samples; some samples are drawn several times in a step"),
        (["batch=50", "sampling=epochs"], "batch=50: the training set has 20 samples; a step goes through 2.5 epochs"),
    ],
)
def test_batches(words: list[str], line: str, capfd: pytest.CaptureFixture[str]) -> None:
    write_arrays(Path("a.npz"))
    warn([assemble(validated(compose([*ARRAYS, *words], [])))])
    assert capfd.readouterr().err == (f"mfrun: warning: {line}\n" if line else "")


@pytest.mark.parametrize(
    ("words", "warned"),
    [
        (["width=inf"], True),
        (["width=8"], False),
        (["width=inf", "init=embedding"], False),
        (["width=inf", "architecture.layers=[{kernel:3},{kernel:3,pool:2}]"], False),
        (["width=inf", "architecture.layers=[{kernel:3,stride:2},{kernel:3}]"], False),
        (["width=inf", "architecture.layers=[{kernel:3,stride:2},{kernel:1,padding:0,pool:2}]"], False),
    ],
)
def test_maxima_of_equal_pixels(words: list[str], warned: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """Images of 4 x 4 pixels, of which the second layer gets 2 x 2, each of which sees all of them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 4, 4, 1)).astype(np.float32)
    np.savez("a.npz", x_train=x, y_train=np.arange(20) % 2, x_test=x, y_test=np.arange(20) % 2)
    base = ["dataset=arrays", "dataset.path=a.npz", "loss=cross_entropy", "architecture=cnn", "batch=5"]
    layers = ["architecture.layers=[{kernel:3,stride:2},{kernel:3,pool:2}]", *LIMIT]
    experiment = assemble(validated(compose([*base, *layers, *words, "depth=3"], [])))
    assert bool(list(ties_in_pooling(experiment))) == warned


@pytest.mark.parametrize("kernels", [10, 11])
def test_kernels_of_one_label(kernels: int) -> None:
    x, y = np.zeros((20, 3), np.float32), np.arange(20) // 10
    np.savez("a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    words = [*ARRAYS, f"evaluation.kernels={kernels}"]
    found = list(kernels_of_one_label(assemble(validated(compose(words, [])))))
    assert [key for key, _, _ in found] == ["evaluation.kernels"] * (kernels == 10)


@pytest.mark.parametrize("name", CAPTIONS)
def test_the_presets_are_not_suspect(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The data aside, which are larger than a batch: Gaussians stand for them."""
    cfg = validated(compose([f"figure={name}", "width=inf"], []))
    if cfg.architecture["name"] == "cnn":
        cfg.architecture = {"name": "dense"}
    cfg.loss = {"name": "squared"}
    warn([assemble(cfg, IsotropicGaussians().load(torch.float32, torch.device("cpu")))])
    assert capfd.readouterr().err == ""


TIMES = st.floats(0.1, 1000)
SCHEDULES = st.one_of(
    st.builds(Constant, warmup=TIMES),
    st.builds(Power, p=st.floats(0.01, 2)),
    st.builds(Exponential, time=TIMES),
    st.builds(Cosine, time=TIMES),
    st.builds(lambda t: Piecewise(times=[t], values=[1.0, 0.5]), TIMES),
)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(schedule=SCHEDULES, steps=st.integers(1, 1000))
def test_what_is_suspect_hardly_acts(schedule: Schedule, steps: int) -> None:
    """Held to the rates themselves: a time that is named leaves them as they were, or a warm-up unfinished."""
    alpha = 0.1
    rates = Rates(schedule, alpha, steps, layers=2).common(0, steps) / alpha
    late = schedule.idle(steps * alpha)
    if "warmup" in late:
        assert rates[-1] < 1
    elif late:
        assert rates.min() > FLAT
    elif schedule.warmup:
        assert rates[-1] == pytest.approx(1, abs=1e-9)


def test_once_for_a_sweep(capfd: pytest.CaptureFixture[str]) -> None:
    """Not for each of its jobs, widths or processes; and on standard error."""
    words = ["particles.first=32", "particles.last=16", "particles.nodes=3", "widths=[3,inf]", "seed.data=0,1"]
    assert here("sweep", *TINY[2:], *words, "steps=5", "threads=1", "schedule.warmup=1", "dir=s") == 0
    out, err = capfd.readouterr()
    assert "warning" not in out
    warned = [line.split("=")[0] for line in err.splitlines() if "warning" in line]
    assert warned == [f"mfrun: warning: {key}" for key in ("schedule.warmup", "particles.first")]


@pytest.mark.parametrize(("n", "warned"), [(10**10, False), (10**14, True)])
def test_float32_loses_what_it_is_said_to_lose(n: int, warned: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """The deviation over neurons of h_2 by weights of either type, which start from the same draws."""
    found = []
    for dtype in ("float32", "float64"):
        words = ["depth=4", "dataset.d=4", "neurons=32", f"width={n}", "stand_in.first=256", "steps=500", "alpha=0.1"]
        e = assemble(validated(compose([*words, f"dtype={dtype}", "batch=20", "threads=1"], [])))
        warn([e])
        network = e.network()
        e.steps(network, e.stream()).advance(0, 500)
        W, below = (array.double() for array in network.W[:2])
        x = torch.randn((4, 20), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        h = below @ (network.probabilities(1).double().unsqueeze(-1) * torch.relu(W @ x))
        found.append(float(h.std(1).square().mean().sqrt()))
    assert ("dtype=float32" in capfd.readouterr().err) == warned
    assert (found[0] > 1.1 * found[1]) == warned, found


def test_a_refused_command_does_not_warn(capfd: pytest.CaptureFixture[str]) -> None:
    assert here("train", *TINY, "schedule.warmup=1", "steps=5", "loss=cross_entropy") == 2
    assert capfd.readouterr().err.count("\n") == 1
