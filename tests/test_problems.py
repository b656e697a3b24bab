"""Losses, test functions, laws of the samples, and the order in which batches come."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import LOSSES, labels

from mfrun.errors import ConfigError
from mfrun.problems.datasets import IsotropicGaussians
from mfrun.problems.losses import Huber
from mfrun.problems.observables import margin, mean, mean_square
from mfrun.problems.problem import CHUNK, FiniteProblem
from mfrun.problems.streams import BLOCK, Drawn, Parallel
from mfrun.problems.tasks import Task
from mfrun.registry import find

CPU = torch.device("cpu")
FITS = [(name, task) for name in LOSSES for task in find("loss", name, "loss").tasks]


# ---------------------------------------------------------------- losses and test functions


@pytest.mark.parametrize(("name", "task"), FITS)
@pytest.mark.parametrize("shape", ["one network", "shared labels", "own labels"])
@pytest.mark.parametrize("size", [0.5, 30.0])
def test_losses(name, task, shape, size):
    """Values against plain formulas, derivatives against autograd of those; outputs of size 30 saturate softmax."""
    g = torch.Generator().manual_seed(1)
    S, B, n_out = 3, 7, 1 if task is Task.SIGN else 4
    yhat = size * torch.randn((S, n_out, B), generator=g, dtype=torch.float64)
    y = labels(task, n_out, B, g, (S,) if shape == "own labels" else ())
    if shape == "one network":
        yhat = yhat[0].clone()
    stacked = yhat if yhat.dim() == 3 else yhat[None]
    leaf = stacked.clone().requires_grad_()
    values = torch.stack([LOSSES[name](y[s] if shape == "own labels" else y, leaf[s]) for s in range(len(leaf))])
    values.sum().backward()

    loss, kept = find("loss", name, "loss")(), yhat.clone()
    value, gradient = loss.value(y, yhat), loss.gradient(y, yhat)
    assert value.shape == (*yhat.shape[:-2], B)
    assert gradient.shape == yhat.shape
    torch.testing.assert_close(value.view(values.shape), values.detach(), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(gradient.view(leaf.shape), leaf.grad, rtol=1e-11, atol=1e-12)
    assert torch.equal(yhat, kept), "yhat lives in the workspace and must not be overwritten"


def test_huber_delta():
    """Quadratic up to delta, then linear with slope delta."""
    loss, y = Huber(delta=2.0), torch.zeros((1, 3), dtype=torch.float64)
    yhat = torch.tensor([[1.0, 2.0, -5.0]], dtype=torch.float64)
    assert loss.value(y, yhat).tolist() == [0.5, 2.0, 2 * (5 - 1)]
    assert loss.gradient(y, yhat).tolist() == [[1.0, 2.0, -2.0]]


def test_losses_far_out_stay_finite():
    """Outputs of size 1000, as on the way to divergence: the loss is linear in them and the slope bounded."""
    y, yhat = torch.tensor([[1.0, -1.0]]), torch.tensor([[-1000.0, -1000.0]])
    logistic = find("loss", "logistic", "loss")()
    assert logistic.value(y, yhat).tolist() == [1000.0, 0.0]
    assert logistic.gradient(y, yhat).tolist() == [[-1.0, 0.0]]
    entropy = find("loss", "cross_entropy", "loss")()
    y, yhat = torch.tensor([0]), torch.tensor([[-1000.0], [1000.0]])
    assert entropy.value(y, yhat).tolist() == [2000.0]
    assert entropy.gradient(y, yhat).tolist() == [[-1.0], [1.0]]


@pytest.mark.parametrize("shared", [True, False])
def test_test_functions_and_errors(shared):
    """Averages, margins and classification errors, one sample at a time in NumPy."""
    g = torch.Generator().manual_seed(2)
    S, B, C = 2, 6, 5
    for task, n_out in ((Task.SIGN, 1), (Task.CLASSES, C), (Task.REGRESSION, 3)):
        yhat = torch.randn((S, n_out, B), generator=g, dtype=torch.float64)
        y = labels(task, n_out, B, g, () if shared else (S,))
        out, lab = yhat.numpy(), np.stack([y.numpy()] * S) if shared else y.numpy()
        np.testing.assert_allclose(mean(y, yhat).numpy(), [[out[s, :, i].mean() for i in range(B)] for s in range(S)])
        np.testing.assert_allclose(
            mean_square(y, yhat).numpy(), [[(out[s, :, i] ** 2).mean() for i in range(B)] for s in range(S)]
        )
        if task is Task.REGRESSION:
            assert task.errors(y, yhat) is None
            with pytest.raises(ConfigError):
                margin(y, yhat)
            continue
        expected = np.zeros((S, B))
        for s in range(S):
            for i in range(B):
                if task is Task.SIGN:
                    expected[s, i] = lab[s, 0, i] * out[s, 0, i]
                else:
                    c = lab[s, i]
                    expected[s, i] = out[s, c, i] - max(out[s, j, i] for j in range(C) if j != c)
        np.testing.assert_allclose(margin(y, yhat).numpy(), expected)
        wrong = task.errors(y, yhat)
        assert wrong is not None
        assert wrong.tolist() == (expected < 0).tolist()
        assert 0 < wrong.double().mean() < 1


# ---------------------------------------------------------------- streams


def indices(count: int, batch: int, seed: int, order: str) -> Drawn:
    """A stream whose batches are the indices themselves."""
    return Drawn(lambda index: (index, index), count, batch, seed, order, CPU)


def gaussians(d: int = 3, delta: float = 0.4):
    return IsotropicGaussians(d=d, delta=delta).load(torch.float64, CPU)


def finite(count: int = 50, dtype: torch.dtype = torch.float32) -> FiniteProblem:
    """Pixels that name their sample, and labels."""
    x = torch.arange(count, dtype=torch.uint8).repeat(4, 1).T.contiguous()
    y = torch.arange(count) % 10
    return FiniteProblem({"train": (x, y), "test": (x[:30], y[:30])}, Task.CLASSES, 10, dtype, CPU)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    steps=st.lists(st.integers(0, 3 * BLOCK - 1), min_size=1, max_size=8),
    count=st.integers(1, 700),
    batch=st.integers(1, 9),
    seed=st.integers(0, 1000),
    kind=st.sampled_from(["iid", "epochs", "fresh"]),
)
def test_a_batch_is_a_function_of_seed_and_step(steps, count, batch, seed, kind):
    """In whatever order it is asked for: a resumed run must see what an uninterrupted one sees."""

    def stream():
        if kind == "fresh":
            return gaussians(d=2).stream(seed, batch, "iid")
        return indices(count, batch, seed, kind)

    wandering = stream()
    for k in steps:
        for mine, anew in zip(wandering.batch(k), stream().batch(k), strict=True):
            assert torch.equal(mine, anew)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(count=st.integers(1, 900), batch=st.integers(1, 12), seed=st.integers(0, 1000))
def test_an_epoch_holds_every_sample_once(count, batch, seed):
    """Whether or not batches divide epochs, and across the blocks in which indices are drawn."""
    stream, steps = indices(count, batch, seed, "epochs"), 2 * BLOCK + 5
    walk = torch.cat([stream.batch(k)[0] for k in range(steps)])
    whole = walk[: len(walk) // count * count].view(-1, count)
    assert torch.equal(whole.sort(1).values, torch.arange(count).expand_as(whole))
    rest = walk[len(whole) * count :]
    assert len(rest.unique()) == len(rest)


def test_shuffles_differ():
    """Between epochs and between seeds; the first epoch of a seed is not the second of another."""
    a, b = (
        torch.cat([indices(100, 10, seed, "epochs").batch(k)[0] for k in range(40)]).view(4, 100).tolist()
        for seed in (0, 1)
    )
    assert len({tuple(order) for order in a + b}) == 8
    assert list(range(100)) not in a + b


def test_iid_draws_with_replacement_and_evenly():
    """Counts of 2 * BLOCK * 50 draws from 20 samples: chi-square within its law, and repeats inside a batch."""
    stream = indices(20, 50, 0, "iid")
    walk = torch.stack([stream.batch(k)[0] for k in range(2 * BLOCK)])
    counts = torch.bincount(walk.flatten(), minlength=20).double()
    expected = walk.numel() / 20
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert 3 < chi2 < 50  # 19 degrees of freedom; an even round trip would give 0
    assert not torch.equal(walk[:BLOCK], walk[BLOCK:])


@pytest.mark.parametrize("order", ["iid", "epochs"])
def test_data_seeds_differ(order):
    """Two seeds give two streams, from finite sets and from laws."""
    for problem in (finite(), gaussians()):
        (x0, _), (x1, _) = (problem.stream(seed, 10, order).batch(0) for seed in (0, 1))
        assert not torch.equal(x0, x1)


def test_gaussians_have_the_stated_law():
    """Section 4.2.1: labels even, x | y ~ N(0, (1 + y delta)^2 I); each moment within 5 standard errors."""
    d, delta, batch = 4, 0.4, 100
    stream = gaussians(d, delta).stream(0, batch, "iid")
    batches = [stream.batch(k) for k in range(2 * BLOCK)]
    assert batches[0][0].shape == (batch, d)
    assert batches[0][1].shape == (1, batch)
    x, y = torch.cat([b[0] for b in batches]), torch.cat([b[1][0] for b in batches])
    n = len(x)
    assert torch.equal(y.abs(), torch.ones(n, dtype=torch.float64))
    assert abs(float(y.mean())) < 5 / n**0.5
    for sign in (-1.0, 1.0):
        z = x[y == sign] / (1 + sign * delta)
        m = len(z)
        assert float(z.mean(0).abs().max()) < 5 / m**0.5
        covariance = z.T @ z / m
        assert float((covariance.diagonal() - 1).abs().max()) < 5 * (2 / m) ** 0.5
        assert float((covariance - covariance.diagonal().diag()).abs().max()) < 5 / m**0.5
        assert abs(float((z**4).mean()) - 3) < 5 * (96 / (m * d)) ** 0.5
    # Fresh samples: none comes twice.
    assert len(torch.unique(x[:, 0])) > 0.99 * n


def test_parallel_streams():
    """Replicates with data of their own: each slice is its own stream's batch, once for each particle set."""
    streams = [gaussians().stream(seed, 5, "iid") for seed in (3, 4)]
    x, y = Parallel(streams, [0, 0, 1, 1]).batch(7)
    assert x.shape == (4, 5, 3)
    assert y.shape == (4, 1, 5)
    for s, seed in enumerate((3, 3, 4, 4)):
        own_x, own_y = gaussians().stream(seed, 5, "iid").batch(7)
        assert torch.equal(x[s], own_x)
        assert torch.equal(y[s], own_y)


# ---------------------------------------------------------------- finite sets and evaluation sets


def test_pixels_and_labels_of_a_finite_set():
    """uint8 becomes [-1, 1]; labels stay with their images; floats are kept; targets become columns."""
    problem = finite(256, torch.float64)
    x, y = problem.stream(0, 64, "epochs").batch(0)
    pixel = ((x[:, 0] + 1) * 255 / 2).round().long()
    assert torch.equal(pixel % 10, y)
    torch.testing.assert_close(x[:, 3], pixel.double() * 2 / 255 - 1, rtol=0, atol=1e-15)
    full, _ = problem.gather(torch.tensor([0, 255]))
    assert full[:, 0].tolist() == [-1.0, 1.0]

    values = torch.tensor([[0.25, -7.0], [3.0, 4.0]], dtype=torch.float64)
    data = dict.fromkeys(("train", "test"), (values, 10 * values))
    x, y = FiniteProblem(data, Task.REGRESSION, 2, torch.float64, CPU).gather(torch.tensor([1, 0, 1]))
    assert x.tolist() == [[3.0, 4.0], [0.25, -7.0], [3.0, 4.0]]
    assert y.tolist() == [[30.0, 2.5, 30.0], [40.0, -70.0, 40.0]]


def walked(evaluation) -> tuple[torch.Tensor, torch.Tensor]:
    chunks = list(evaluation)
    assert all(len(x) <= CHUNK for x, _ in chunks)
    x, y = torch.cat([x for x, _ in chunks]), torch.cat([y for _, y in chunks], -1)
    assert len(x) == evaluation.count == y.shape[-1]
    return x, y


@pytest.mark.parametrize("samples", [10, CHUNK + 7])
def test_evaluation_sets_are_fixed_by_their_seed(samples):
    """The same samples at every evaluation and for every width; another seed gives others."""
    problem = gaussians()
    first = problem.evaluation(5, samples)["population"]
    x, y = walked(first)
    assert len(x) == samples
    for again in (first, gaussians().evaluation(5, samples)["population"]):
        assert torch.equal(walked(again)[0], x)
        assert torch.equal(walked(again)[1], y)
    assert not torch.equal(walked(problem.evaluation(6, samples)["population"])[0], x)
    assert not torch.equal(problem.stream(5, 10, "iid").batch(0)[0], x[:10]), "trained on the evaluation set"


def test_evaluation_of_a_finite_set():
    """All of a small split in order; of a large one, a subset without repeats that the seed fixes."""
    problem = finite(200)
    sets = problem.evaluation(0, 50)
    assert list(sets) == ["train", "test"]
    x, y = walked(sets["test"])
    assert torch.equal(y, torch.arange(30) % 10)
    x, y = walked(sets["train"])
    pixel = ((x[:, 0] + 1) * 255 / 2).round().long()
    assert len(pixel.unique()) == 50
    assert torch.equal(pixel % 10, y)
    assert torch.equal(walked(problem.evaluation(0, 50)["train"])[0], x)
    assert not torch.equal(walked(problem.evaluation(1, 50)["train"])[0], x)
