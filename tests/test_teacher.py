"""Samples labelled by a teacher: what it is, what the labels are, and students of any width."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from commands import LIMIT, TINY, here, rows

from mfrun.dynamics.teacher import Teacher
from mfrun.errors import ConfigError
from mfrun.problems.datasets import IsotropicGaussians
from mfrun.problems.problem import PopulationProblem
from mfrun.problems.streams import BLOCK
from mfrun.problems.tasks import Task
from mfrun.seeds import generator

OWN = """\
import torch

def linear(x):
    return x.sum(1)

def pair(x):
    return torch.stack([x[:, 0], -x[:, 0]], 1)

def cube(generator, count, d):
    return torch.rand((count, d), generator=generator) * 2 - 1

def flat(generator, count, d):
    return torch.rand(count, generator=generator)

def others(generator, count, d):
    return torch.randn(count, d)

def unbounded(generator, count, d):
    return torch.full((count, d), torch.inf)

def sideways(generator, count, d):
    return torch.rand((d, count), generator=generator)

def column(x):
    return x[:, :1]

def row(x):
    return x[:, :1].T

def rows(x):
    return x[:, :3].T

def rows5(x):
    return x[:, :5].T

def noisy(x):
    return x.sum(1) + torch.randn(len(x))

def undefined(x):
    return x.sum(1) * torch.nan

def writes(x):
    return x.mul_(2).sum(1)
"""


@pytest.fixture(autouse=True)
def own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the user's own."""
    (folder / "own_teacher.py").write_text(OWN)
    monkeypatch.syspath_prepend(folder)


def load(**keys: object) -> PopulationProblem:
    problem = Teacher(**keys).load(torch.float64, torch.device("cpu"))  # type: ignore[arg-type]
    assert isinstance(problem, PopulationProblem)
    return problem


def test_the_teacher_is_the_network_of_its_keys() -> None:
    """Mean 0 and deviation 1, and a network of plain torch but for that."""
    teacher = Teacher(d=4, width=6, depth=3, outputs=2, activation={"name": "tanh"}, seed=3)
    problem = teacher.load(torch.float64, torch.device("cpu"))
    assert isinstance(problem, PopulationProblem)
    x, y = problem.draw(generator("test", 0), 50_000)
    assert tuple(y.shape) == (50_000, 2)
    torch.testing.assert_close(y.mean(0), torch.zeros(2), atol=0.03, rtol=0)
    torch.testing.assert_close(y.std(0), torch.ones(2), atol=0.03, rtol=0)
    arrays = teacher._network.state()  # type: ignore[union-attr]
    a = x.T
    for l in (1, 2):
        a = torch.tanh(arrays[f"W{l}"][0] @ a + arrays[f"b{l}"][0])
    f = (arrays["W3"][0] @ a + arrays["b3"][0]).T
    torch.testing.assert_close(y, (f - f.mean(0)) / f.std(0), atol=0.03, rtol=0.03)
    assert not torch.allclose(y, load(d=4, width=6, depth=3, outputs=2, seed=4).draw(generator("test", 0), 50_000)[1])


@pytest.mark.parametrize("keys", [{}, {"noise": 0.3, "depth": 3}, {"function": "own_teacher:linear"}])
def test_samples_do_not_depend_on_the_callers_type(keys: dict[str, object]) -> None:
    """A notebook may have set torch's default to float64."""
    found = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            problems = load(d=4, **keys), IsotropicGaussians(d=4).load(torch.float32, torch.device("cpu"))
            found.append([array for problem in problems for array in problem.draw(generator("test", 0), 20)])
        finally:
            torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_noise_is_added_to_the_outputs() -> None:
    clean, noisy = (load(d=4, noise=s).draw(generator("test", 0), 20_000) for s in (0.0, 0.5))
    torch.testing.assert_close(clean[0], noisy[0])
    assert float((noisy[1] - clean[1]).std()) == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize(
    ("keys", "shape", "dtype"),
    [
        ({"outputs": 3}, (3, 7), torch.float64),
        ({"task": "sign"}, (1, 7), torch.float64),
        ({"task": "classes", "outputs": 4}, (7,), torch.int64),
    ],
)
def test_batches_are_the_drawn_samples(keys: dict[str, object], shape: tuple[int, ...], dtype: torch.dtype) -> None:
    problem = load(d=5, **keys)
    x, y = problem.draw(generator("samples", 0, 0), BLOCK * 7)
    stream = problem.stream(0, 7, "iid")
    for k in (0, 3):
        a, b = stream.batch(k)
        assert (tuple(b.shape), b.dtype) == (shape, dtype)
        torch.testing.assert_close(a, x[7 * k : 7 * k + 7].double())
        part = y[7 * k : 7 * k + 7]
        torch.testing.assert_close(b, part if dtype == torch.int64 else part.double().view(7, -1).T)
    (u, v), *_ = problem.evaluation(0, 20)["population"]
    assert tuple(v.shape) == (*shape[:-1], 20)
    assert len(u) == 20


def test_signs_and_classes_are_those_of_the_outputs() -> None:
    _, y = load(d=3, task="sign").draw(generator("test", 0), 10_000)
    assert set(y.tolist()) == {-1.0, 1.0}
    _, y = load(d=3, task="classes", outputs=3).draw(generator("test", 0), 10_000)
    assert set(y.tolist()) == {0, 1, 2}
    assert load(d=3, task="classes", outputs=3).task is Task.CLASSES


def test_functions_of_the_user_s_own() -> None:
    x, y = load(d=3, function="own_teacher:linear", inputs="own_teacher:cube").draw(generator("test", 0), 100)
    assert float(x.abs().max()) <= 1
    torch.testing.assert_close(y[:, 0], x.sum(1))
    _, y = load(d=3, function="own_teacher:column").draw(generator("test", 0), 100)
    assert tuple(y.shape) == (100, 1)
    _, y = load(d=3, function="own_teacher:pair", task="classes", outputs=2).draw(generator("test", 0), 100)
    assert set(y.tolist()) == {0, 1}


def test_students_learn_and_have_a_limit(capfd: pytest.CaptureFixture[str]) -> None:
    """A linear teacher of noise 0.3: the loss falls towards 0.09 and no lower, at n = 32 and at n = infinity."""
    words = ["dataset=teacher", "dataset.d=3", "dataset.function=own_teacher:linear", "dataset.noise=0.3", "depth=2"]
    words += ["threads=1", "batch=20", "steps=4000", "alpha=0.05", "evaluation.samples=4000", "activation=tanh"]
    assert here("sweep", *words, "widths=[32,inf]", "particles.first=512", "particles.last=64", "dir=s") == 0
    for n in ("32", "inf"):
        losses = [float(row["population_loss"]) for row in rows(f"s/width={n}")]
        assert losses[0] > 2
        assert 0.08 < losses[-1] < 0.4
        assert not any("error" in column for column in rows(f"s/width={n}")[0])


@pytest.mark.parametrize(("task", "outputs"), [("regression", 2), ("sign", 1), ("classes", 3)])
@pytest.mark.parametrize("width", ["4", "inf"])
def test_every_task_trains(task: str, outputs: int, width: str) -> None:
    keys = [k for k in TINY if not k.startswith("width")]
    words = [*keys, "dataset=teacher", f"dataset.task={task}", f"dataset.outputs={outputs}", *LIMIT, "steps=10"]
    assert here("train", *words, f"width={width}", "dir=r") == 0
    assert ("population_error" in rows("r")[0]) == (task != "regression")
    assert math.isfinite(float(rows("r")[-1]["population_loss"]))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"task": "classes"}, "outputs=1: the classes are 2 or more outputs"),
        ({"task": "sign", "outputs": 2}, "outputs=2: a sign is that of 1 output"),
        ({"task": "ranks"}, "task=ranks: one of regression, sign, classes"),
        ({"noise": -1.0}, "noise=-1.0: a standard deviation"),
        ({"depth": 1}, "depth=1: must be at least 2"),
        ({"function": "own_teacher:none"}, "function=own_teacher:none: cannot be imported"),
        (
            {"function": "own_teacher:pair"},
            r"function=own_teacher:pair: must return \(5,\) or \(5, 1\) for 5 samples; here \(5, 2\)$",
        ),
        ({"function": "own_teacher:row"}, r"function=own_teacher:row: must return .* for 5 samples; here \(1, 5\)$"),
        (
            {"function": "own_teacher:rows", "outputs": 3},
            r"function=own_teacher:rows: must return \(5, 3\) for 5 samples",
        ),
        ({"function": "own_teacher:rows5", "outputs": 5}, r"function=own_teacher:rows5: must return \(6, 5\) for 6"),
        (
            {"inputs": "own_teacher:sideways", "d": 5},
            r"inputs=own_teacher:sideways: must return \(6, 5\) for 6 samples",
        ),
        (
            {"function": "own_teacher:noisy"},
            "function=own_teacher:noisy: its outputs are others when it is called again; all chance is dataset.noise$",
        ),
        ({"function": "own_teacher:undefined"}, "function=own_teacher:undefined: its outputs are not finite$"),
        ({"inputs": "own_teacher:unbounded"}, "inputs=own_teacher:unbounded: its samples are not finite$"),
        ({"function": "own_teacher:writes"}, "function=own_teacher:writes: changes its x in place"),
        ({"function": "math:sqrt"}, "function=math:sqrt: fails"),
        (
            {"function": "own_teacher:linear", "inputs": "own_teacher:flat"},
            r"inputs=own_teacher:flat: must return \(5, 32\)",
        ),
        (
            {"inputs": "own_teacher:others"},
            "inputs=own_teacher:others: its samples are others when they are drawn again",
        ),
    ],
)
def test_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        load(**keys)
