"""The fused forward pass, backward pass and update of Dense against autograd, the paper's equations and symmetry."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import STARTS, factors
from reference import ACTIVATIONS, LOSSES, Init, build, forward, labels

from mfrun.dynamics.schedules import Constant, Power, Rates
from mfrun.dynamics.steps import Counted, Eager
from mfrun.networks import activations
from mfrun.networks.dense import Dense, DenseWorkspace
from mfrun.networks.fully_connected import DenseArchitecture
from mfrun.networks.laws import Normal
from mfrun.networks.measures import Measure
from mfrun.networks.particles import Particles
from mfrun.networks.products import Products, routes
from mfrun.problems import losses
from mfrun.problems.datasets import IsotropicGaussians
from mfrun.problems.losses import Squared
from mfrun.problems.tasks import Task
from mfrun.registry import find

FITS = [(name, task) for name in LOSSES for task in find("loss", name, "loss").tasks]
EXACT = {"rtol": 1e-10, "atol": 1e-13}


def components(module, base):
    """Its classes, but for the one that stands for functions of the user's own (test_functions.py)."""
    there = {c for c in vars(module).values() if isinstance(c, type) and issubclass(c, base)}
    return there - {base, module.OfFunction}


def test_the_references_cover_every_activation_and_loss():
    """A new component without a reference would silently go untested."""
    assert {find("activation", name, "") for name in ACTIVATIONS} == components(activations, activations.Activation)
    assert {find("loss", name, "") for name in LOSSES} == components(losses, losses.Loss)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    ratios=st.lists(st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0]), min_size=1, max_size=4),
    n=st.integers(4, 9),
    d=st.integers(1, 5),
    batch=st.integers(1, 6),
    replicates=st.integers(1, 3),
    own_data=st.booleans(),
    biases=st.booleans(),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    fit=st.sampled_from(FITS),
    n_out=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_a_step_is_autograd_times_the_widths(
    ratios, n, d, batch, replicates, own_data, biases, activation, fit, n_out, seed
):
    """Section 3.1: gradient times n_l n_{l-1} (W_1: n_1, beta: n_L, biases: n_l, output bias: 1), batch mean."""
    name, task = fit
    n_out = 1 if task is Task.SIGN else n_out
    depth = len(ratios) + 1
    init = Init(Normal(), tau1=1.0, mu2=0.5, tau2=1.0, mu3=0.1, tau3=0.5)
    network = build(
        DenseArchitecture(ratios, biases),
        find("activation", activation, "")(),
        init,
        width=n,
        depth=depth,
        d=d,
        n_out=n_out,
        seed=seed,
        replicates=replicates,
        dtype=torch.float64,
    )
    g = torch.Generator().manual_seed(seed)
    stack = (replicates,) if own_data and replicates > 1 else ()
    x = torch.randn((*stack, batch, d), generator=g, dtype=torch.float64)
    y = labels(task, n_out, batch, g, stack)
    rates = [0.3 + 0.1 * l for l in range(depth)]

    leaves = {key: array.clone().requires_grad_() for key, array in network.state().items()}
    total = torch.zeros((), dtype=torch.float64)
    outputs = []
    for s in range(replicates):
        W = [leaves[f"W{l}"][s] for l in range(1, depth + 1)]
        b = [leaves[f"b{l}"][s] for l in range(1, depth + 1)] if biases else None
        yhat = forward(W, b, activation, x[s] if stack else x)
        outputs.append(yhat.detach())
        total = total + LOSSES[name](y[s] if stack else y, yhat).mean()
    total.backward()

    ws = DenseWorkspace(network, batch)
    yhat = network.forward(x, ws)
    torch.testing.assert_close(yhat.reshape(replicates, n_out, batch), torch.stack(outputs), **EXACT)
    loss = find("loss", name, "loss")()
    network.descend(x, loss.gradient(y, yhat), [r / batch for r in rates], ws)

    widths = [1, *[round(n * r) for r in ratios], 1]  # n_0 and n_{L+1} count as 1
    assert [w.shape[1] for w in network.W[:-1]] == widths[1:-1]
    for l in range(1, depth + 1):
        factors = {f"W{l}": widths[l] * widths[l - 1], f"b{l}": widths[l]}
        for key in [k for k in factors if k in leaves]:
            before = leaves[key].detach()
            expected = before - rates[l - 1] * factors[key] * leaves[key].grad
            torch.testing.assert_close(network.state()[key], expected, **EXACT)


def test_three_layers_by_the_equations_of_section_2():
    """Equations (7) to (15) written down once in NumPy; squared loss, one sample a step, 20 steps."""
    d, n, alpha = 3, 4, 0.1
    init = Init(Normal(), tau1=1.0, mu2=0.5, tau2=1.0, mu3=0.0, tau3=0.0)
    architecture = DenseArchitecture([1.0, 1.5], biases=False)
    network = build(architecture, activations.Tanh(), init, width=n, depth=3, d=d, n_out=1, seed=3, dtype=torch.float64)
    W1, W2, beta = (w[0].numpy().copy() for w in network.W)
    beta = beta[0]
    n2, n1 = W2.shape
    assert (n1, n2) == (4, 6)
    rng = np.random.default_rng(0)
    ws, moved = DenseWorkspace(network, 1), 0.0
    for _ in range(20):
        x, y = rng.standard_normal(d), rng.standard_normal()
        h1 = W1 @ x  # (7)
        h2 = W2 @ np.tanh(h1) / n1
        yhat = beta @ np.tanh(h2) / n2
        grad_beta = np.tanh(h2)  # (8)
        grad_h2 = beta * (1 - np.tanh(h2) ** 2)  # (9)
        grad_W2 = np.outer(grad_h2, np.tanh(h1))  # (10)
        grad_h1 = (W2.T @ grad_h2) / n2 * (1 - np.tanh(h1) ** 2)  # (11)
        grad_W1 = np.outer(grad_h1, x)  # (12)
        slope = 2 * (yhat - y)
        beta = beta - alpha * slope * grad_beta  # (13)
        W2 = W2 - alpha * slope * grad_W2  # (14)
        W1 = W1 - alpha * slope * grad_W1  # (15)
        moved += abs(slope)

        out = network.forward(torch.from_numpy(x)[None], ws)
        assert out.item() == pytest.approx(yhat, rel=1e-11, abs=1e-12)
        network.descend(torch.from_numpy(x)[None], 2 * (out - y), [alpha] * 3, ws)
    assert moved > 5
    for mine, theirs in zip(network.W, (W1, W2, beta[None]), strict=True):
        np.testing.assert_allclose(mine[0].numpy(), theirs, rtol=1e-11, atol=1e-12)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    stack=st.integers(1, 2),
    scale=st.sampled_from([1.0, 0.25]),
    activation=st.sampled_from(["relu", "tanh", "softplus"]),
    place=st.tuples(st.integers(0, 99), st.integers(0, 99)),
    share=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**31),
)
def test_a_neuron_can_be_split_into_copies(widths, stack, scale, activation, place, share, seed):
    """LIMIT.md, Section 1: copies that share the weight p of a neuron change nothing, at any later step."""
    g = torch.Generator().manual_seed(seed)
    L, d, n_out, batch = len(widths), 2, 2, 3

    def randn(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64)

    sizes = [d, *widths, n_out]
    W = [randn(stack, k, j) + 0.5 * (l > 0) for l, (j, k) in enumerate(itertools.pairwise(sizes))]
    b = [0.3 * randn(stack, k, 1) for k in sizes[1:]]
    p = [torch.softmax(randn(stack, k, 1), 1) for k in widths]

    l, i = place[0] % L, place[1] % widths[place[0] % L]
    W2, b2, p2 = [w.clone() for w in W], [v.clone() for v in b], [q.clone() for q in p]
    W2[l] = torch.cat([W[l], W[l][:, i : i + 1]], 1)
    b2[l] = torch.cat([b[l], b[l][:, i : i + 1]], 1)
    W2[l + 1] = torch.cat([W[l + 1], W[l + 1][:, :, i : i + 1]], 2)
    p2[l] = torch.cat([p[l], p[l][:, i : i + 1] * share], 1)
    p2[l][:, i] *= 1 - share

    sigma = find("activation", activation, "")()
    one = Dense(W, b, [Measure(scale, q / scale) for q in p], sigma)
    two = Dense(W2, b2, [Measure(scale, q / scale) for q in p2], sigma)
    ws1, ws2 = DenseWorkspace(one, batch), DenseWorkspace(two, batch)
    start = W[l].clone()
    for _ in range(30):
        x, y = randn(batch, d), randn(n_out, batch)
        yhat1, yhat2 = one.forward(x, ws1), two.forward(x, ws2)
        torch.testing.assert_close(yhat1, yhat2, rtol=1e-9, atol=1e-10)
        rates = [0.1 / batch] * (L + 1)
        one.descend(x, 2 * (yhat1 - y), rates, ws1)
        two.descend(x, 2 * (yhat2 - y), rates, ws2)
    # The copy has moved with its original; the network as a whole has moved at all.
    torch.testing.assert_close(two.W[l][:, -1], two.W[l][:, i], rtol=1e-9, atol=1e-10)
    if activation != "relu":  # relu neurons may all be dead
        assert not torch.allclose(start, one.W[l], rtol=1e-6)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_derivatives_of_activations(name):
    """Values and derivatives against autograd, far tails included; the result may overwrite its input g."""
    near = torch.tensor([-1e-300, 1e-300, -1e-8, 1e-8], dtype=torch.float64)
    h = torch.cat([torch.linspace(-60, 60, 2400, dtype=torch.float64), near])
    sigma = find("activation", name, "")()
    leaf = h.clone().requires_grad_()
    expected = ACTIVATIONS[name](leaf)
    expected.sum().backward()
    a = torch.empty_like(h)
    sigma.forward(h, out=a)
    torch.testing.assert_close(a, expected.detach(), rtol=1e-12, atol=1e-15)

    g = torch.randn(len(h), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    apart = torch.full_like(h, math.nan)
    sigma.backward(g, h, a, out=apart)
    torch.testing.assert_close(apart, g * leaf.grad, rtol=1e-10, atol=1e-14)
    sigma.backward(g, h, a, out=g)
    assert torch.equal(g, apart)


def test_tails_of_activations():
    """Closed forms far out: both sides above may share PyTorch's derivative formula, and with it a fault."""
    h = torch.tensor([-60.0, -45.0, -30.0, 30.0, 39.0, 41.0, 45.0, 60.0], dtype=torch.float64)
    s = 1 / (1 + torch.exp(-h))
    other = 1 / (1 + torch.exp(h))
    truth = {
        "softplus": (torch.log1p(torch.exp(-h.abs())) + h.clamp_min(0), s),
        "sigmoid": (s, s * other),
        "silu": (h * s, s + h * s * other),
        "gelu": (h.clamp_min(0), (h > 0).double()),
        "tanh": (torch.sign(h), 4 / (torch.exp(h) + torch.exp(-h)) ** 2),
        "erf": (torch.sign(h), 0 * h),
    }
    for name, (value, slope) in truth.items():
        sigma = find("activation", name, "")()
        a, out = torch.empty_like(h), torch.empty_like(h)
        sigma.forward(h, out=a)
        sigma.backward(torch.ones_like(h), h, a, out=out)
        torch.testing.assert_close(a, value, rtol=1e-12, atol=1e-15, msg=name)
        torch.testing.assert_close(out, slope, rtol=1e-12, atol=1e-12, msg=name)


def test_slope_of_leaky_relu():
    """The key ``slope`` reaches both passes, negative slopes too."""
    for slope in (0.3, -0.5, 0.0):
        sigma = dataclasses.replace(find("activation", "leaky_relu", "")(), slope=slope)
        h = torch.tensor([-2.0, 3.0], dtype=torch.float64)
        a, out = torch.empty_like(h), torch.empty_like(h)
        sigma.forward(h, out=a)
        sigma.backward(torch.ones_like(h), h, a, out=out)
        assert a.tolist() == [-2 * slope, 3.0]
        assert out.tolist() == [slope, 1.0]


@pytest.mark.parametrize("schedule", [Constant(), Power(p=0.5, multipliers=[1.0, 0.5, 2.0])])
@pytest.mark.parametrize("width", [5, math.inf])
def test_counted_steps_are_the_eager_ones(width, schedule):
    """What a GPU replays, sample and rate found by a counter on the device, run here step by step."""
    problem = IsotropicGaussians(d=3).load(torch.float64, torch.device("cpu"))
    init = Init(Normal(), tau1=1.0, mu2=1.0, tau2=0.5, mu3=0.0, tau3=0.3)
    particles = Particles(first=32, last=16, nodes=3, sets=2)
    states = []
    for kind in (Eager, Counted):
        shape = {"width": width, "depth": 3, "d": 3, "n_out": 1, "particles": particles, "dtype": torch.float64}
        network = build(DenseArchitecture(), activations.Tanh(), init, **shape)
        start = network.state()["W2"].clone()
        rates = Rates(schedule, alpha=0.1, steps=600, layers=3)
        steps = kind(network, problem.stream(0, 10, "iid"), Squared(), rates, batch=10)
        for k, end in itertools.pairwise([0, 7, 256, 300, 512, 600]):
            assert steps.advance(k, end) == end
        states.append(network.state())
        assert not torch.allclose(start, network.state()["W2"], rtol=1e-2)
    for name, array in states[0].items():
        torch.testing.assert_close(array, states[1][name], rtol=1e-10, atol=1e-12)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(arrays=factors(torch.float32, torch.float64), start=STARTS)
def test_products(arrays, start):
    """Every library writes start + alpha A B, for matrices and stacks, as they are or transposed, one column too."""
    A, B, column, before = arrays
    dtype = A.dtype
    added = {"none": 0, "out": before, "column": column}[start]
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
    for route in (*routes(before), Products().prepare):
        out = before.clone()
        route(out, A, B, {"none": None, "out": out, "column": column}[start])(-0.3)
        torch.testing.assert_close(out, added - 0.3 * A @ B, **tolerance)
    out = before.clone()
    Products(bf16=True).multiply(out, A, B, -0.3, {"none": None, "out": out, "column": column}[start])
    exact = (added - 0.3 * A.bfloat16().double() @ B.bfloat16().double()).to(dtype)
    torch.testing.assert_close(out, exact, **tolerance)
