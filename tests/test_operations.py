"""Neurons and local operations: gradients, invariances and the limit, held to Eq. (38) and Section 2.4 by autograd."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import NEURONS, OPERATIONS, Init, build, general_forward
from torch import Tensor

from mfrun.networks import neurons, operations
from mfrun.networks.activations import Linear, Tanh
from mfrun.networks.dense import Dense
from mfrun.networks.fully_connected import DenseArchitecture
from mfrun.networks.laws import Normal, Rademacher
from mfrun.networks.measures import Measure
from mfrun.networks.neurons import Gain, Neuron, Trained
from mfrun.networks.operations import OfProduct, OfSum, Operation, Pointwise, Product, Separable
from mfrun.networks.particles import Particles
from mfrun.registry import find

EXACT = {"rtol": 1e-9, "atol": 1e-12}
INIT = Init(Normal(), tau1=1.0, mu2=0.5, tau2=0.8, mu3=0.1, tau3=0.0)


def subclasses(module, base):
    return {c for c in vars(module).values() if isinstance(c, type) and issubclass(c, base) and c.__module__ != "abc"}


def neuron_of(name: str) -> Neuron:
    """With a spread in every component of theta."""
    component = find("neuron", name, "")
    if name == "function":
        return component(function="reference:ripple", means=[0.5, 1.0, 0.2], deviations=[0.3, 0.2, 0.0])
    return component(deviations=[0.3] * component.q)


def operation_of(name: str) -> Operation:
    component = find("operation", name, "")
    return component(function="reference:bend") if name == "function" else component()


def test_the_references_cover_every_neuron_and_operation():
    """A new component without a reference would silently go untested."""
    found = subclasses(neurons, Neuron) - {Neuron}
    assert {find("neuron", name, "") for name in NEURONS} == found
    found = subclasses(operations, Operation) - {Operation, Pointwise, operations._Composed}
    assert {find("operation", name, "") for name in OPERATIONS} == found


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    width=st.sampled_from([3, 5, math.inf]),
    L=st.integers(1, 3),
    neuron=st.sampled_from(sorted(NEURONS)),
    operation=st.sampled_from(sorted(OPERATIONS)),
    activation=st.sampled_from(["relu", "tanh", "sigmoid", "linear"]),
    law=st.sampled_from([Normal(), Rademacher()]),
    biases=st.booleans(),
    tau3=st.sampled_from([0.0, 0.4]),
    replicates=st.integers(1, 2),
    block=st.sampled_from([5, 40, 2**18]),
    seed=st.integers(0, 2**31),
)
def test_a_step_is_autograd_over_the_measures(
    width, L, neuron, operation, activation, law, biases, tau3, replicates, block, seed
):
    """Section 3.1 with any measure: autograd's gradient over p_l p_{l-1} omega (theta, b: p_l; W_1: p_1), exactly."""
    init = Init(law, tau1=1.0, mu2=0.5, tau2=0.8, mu3=0.1, tau3=tau3)
    network = build(
        DenseArchitecture(biases=biases),
        find("activation", activation, "")(),
        init,
        width=width,
        depth=L + 1,
        d=2,
        n_out=2,
        seed=seed,
        replicates=replicates,
        particles=Particles(first=16, last=16, nodes=3, sets=2),
        neuron=neuron_of(neuron),
        operation=operation_of(operation),
        dtype=torch.float64,
    )
    # Away from the symmetric start, where derivatives of different types agree by chance.
    g = torch.Generator().manual_seed(seed)
    for array in network.state().values():
        array += 0.3 * torch.randn(array.shape, generator=g, dtype=torch.float64)
    batch, S = 3, network.replicates
    x = torch.randn((batch, 2), generator=g, dtype=torch.float64)
    D = torch.randn((S, 2, batch), generator=g, dtype=torch.float64)
    rates = [0.3 + 0.1 * l for l in range(L + 1)]

    before = {key: array.clone() for key, array in network.state().items()}
    limit = operations.BLOCK
    operations.BLOCK = {"cpu": block}
    try:
        ws = network.workspace(batch)
        yhat = network.forward(x, ws).clone().view(S, 2, batch)
        network.descend(x, D[0] if S == 1 else D, rates, ws)
    finally:
        operations.BLOCK = limit

    one = torch.ones(1, dtype=torch.float64)
    for s in range(S):
        leaves = {key: array[s].clone().requires_grad_() for key, array in before.items()}
        W = [leaves[f"W{l}"] for l in range(1, L + 2)]
        b = [leaves[f"b{l}"] for l in range(1, L + 2)] if biases else None
        theta = [leaves.get(f"theta{l}", torch.empty(0)) for l in range(1, L + 1)]
        p = [m.probabilities(k, s) for m, k in zip(network.p[1:-1], network.widths, strict=True)]
        omega = one if network.omega is None else network.omega[s]
        torch.testing.assert_close(omega.sum(), one[0])
        expected = general_forward(W, b, theta, p, omega, (activation, neuron, operation), x)
        torch.testing.assert_close(yhat[s], expected.detach(), **EXACT)
        (expected * D[s]).sum().backward()
        # Outputs count; so do inputs.
        share = [one.repeat(2), *p, one.repeat(2)]
        for l in range(1, L + 2):
            columns = torch.outer(share[l - 1], omega if 1 < l <= L else one).flatten()
            rows = share[l][:, None]
            weights = {f"W{l}": rows * columns, f"b{l}": rows, f"theta{l}": rows}
            for key in [k for k in weights if k in leaves]:
                # What has no weight, a node that fills up a shorter rule, is seen by nobody.
                seen = (weights[key] > 0).expand_as(leaves[key])
                gradient = (leaves[key].grad / weights[key])[seen]
                moved = network.state()[key][s][seen]
                torch.testing.assert_close(moved, leaves[key].detach()[seen] - rates[l - 1] * gradient, **EXACT)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    widths=st.lists(st.integers(1, 4), min_size=2, max_size=3),
    neuron=st.sampled_from(sorted(NEURONS)),
    operation=st.sampled_from(sorted(OPERATIONS)),
    place=st.tuples(st.integers(0, 99), st.integers(0, 99)),
    share=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**31),
)
def test_a_neuron_can_be_split_into_copies(widths, neuron, operation, place, share, seed):
    """LIMIT.md, Section 1: copies that share the weight p of a neuron change nothing, at any later step."""
    g = torch.Generator().manual_seed(seed)
    L, d, n_out, batch = len(widths), 2, 2, 3

    def randn(*shape):
        return torch.randn((1, *shape), generator=g, dtype=torch.float64)

    sizes = [d, *widths, n_out]
    sigma, rule = Tanh(), neuron_of(neuron)
    W = [randn(k, j) for j, k in itertools.pairwise(sizes)]
    b = [0.3 * randn(k, 1) for k in sizes[1:]]
    theta = [0.5 + randn(k, len(rule.means)) for k in widths]
    p = [torch.softmax(randn(k, 1), 1) for k in widths]
    l, i = place[0] % L, place[1] % widths[place[0] % L]

    def again(arrays: list[Tensor], dim: int = 1, at: int = l) -> list[Tensor]:
        copies = [array.clone() for array in arrays]
        copies[at] = torch.cat([copies[at], copies[at].narrow(dim, i, 1)], dim)
        return copies

    p2 = again(p)
    p2[l][:, -1] *= share
    p2[l][:, i] *= 1 - share
    plain = neuron == "bias"

    def network(W: list[Tensor], b: list[Tensor], theta: list[Tensor], p: list[Tensor]) -> Dense:
        measures = [Measure(1.0, q) for q in p]
        own = None if plain else [Trained(rule, sigma, t) for t in theta]
        return Dense(W, b, measures, sigma, trained=own, operation=operation_of(operation))

    two = network(again(again(W), 2, l + 1), again(b), again(theta), p2)
    one = network(W, b, theta, p)
    ws1, ws2 = one.workspace(batch), two.workspace(batch)
    start = W[0].clone()
    for _ in range(10):
        x, y = randn(batch, d)[0], randn(n_out, batch)[0]
        yhat1, yhat2 = one.forward(x, ws1), two.forward(x, ws2)
        torch.testing.assert_close(yhat1, yhat2, rtol=1e-8, atol=1e-9)
        one.descend(x, yhat1 - y, [0.02 / batch] * (L + 1), ws1)
        two.descend(x, yhat2 - y, [0.02 / batch] * (L + 1), ws2)
    for key in [f"W{l + 1}", *([] if plain else [f"theta{l + 1}"])]:
        torch.testing.assert_close(two.state()[key][:, -1], two.state()[key][:, i], rtol=1e-8, atol=1e-9)
    assert not torch.equal(start, one.W[0]) or operation == "of_sum"  # relu(w + a) may be dead


# ---------------------------------------------------------------- operations against one another


def trained(operation: Operation, width: float, steps: int = 12, init: Init = INIT, **keys) -> tuple[Tensor, Dense]:
    """yhat (steps, S, B) along SGD on a smooth function of x, and the network."""
    keys = {"activation": Tanh(), "depth": 4, "particles": Particles(first=16, last=16, nodes=5, sets=2)} | keys
    network = build(
        DenseArchitecture(),
        keys.pop("activation"),
        init,
        width=width,
        d=2,
        n_out=1,
        operation=operation,
        dtype=torch.float64,
        **keys,
    )
    g = torch.Generator().manual_seed(0)
    ws, outputs = network.workspace(8), []
    for _ in range(steps):
        x = torch.randn((8, 2), generator=g, dtype=torch.float64)
        y = torch.tanh(x.sum(-1)) + 0.3 * x[..., 0] ** 2
        yhat = network.forward(x, ws).view(network.replicates, 8)
        outputs.append(yhat.clone())
        D = 2 * (yhat - y).view_as(ws.D[-1])
        network.descend(x, D, [0.1 / 8] * len(network.W), ws)
    return torch.stack(outputs or [torch.empty(0)]), network


class Direct(Pointwise):
    """tanh(w) a by blocks, with derivatives by torch.func; keeps the size of the largest block."""

    largest = 0

    def value(self, w: Tensor, a: Tensor) -> Tensor:
        self.largest = max(self.largest, (w + a).numel())
        return torch.tanh(w) * a


@pytest.mark.parametrize("width", [7, math.inf])
@pytest.mark.parametrize("tau3", [0.0, 0.4])
def test_matrix_products_and_blocks_agree(width, tau3, monkeypatch):
    """Separable forms as matrix products, as blocks of any size, and the product as the linear case of both."""
    init = Init(Normal(), tau1=1.0, mu2=0.5, tau2=0.8, mu3=0.1, tau3=tau3)
    blocks = Direct()
    whole, _ = trained(Separable("tanh"), width, init=init)
    torch.testing.assert_close(trained(blocks, width, init=init)[0], whole, **EXACT)
    assert blocks.largest > 150
    monkeypatch.setattr(operations, "BLOCK", {"cpu": 150})
    small = Direct()
    torch.testing.assert_close(trained(small, width, init=init)[0], whole, **EXACT)
    assert 8 <= small.largest <= 150
    # At n = infinity the product needs the mean of w alone, the others carry nodes of its law: one system.
    product, network = trained(Product(), width, init=init)
    assert network.omega is None
    for other in (Separable("linear"), OfProduct("linear")):
        outputs, network = trained(other, width, init=init)
        torch.testing.assert_close(outputs, product, **EXACT)
        assert (network.omega is not None) == math.isinf(width)
    assert not torch.allclose(whole, product, rtol=0.02)


def test_one_weight_has_one_value_where_its_law_has():
    """tau2 = 0 needs no nodes, two points of a law are exact with two."""
    for init, nodes in (
        (Init(Normal(), 1.0, 0.5, 0.0, 0.0, 0.0), 1),
        (Init(Rademacher(), 1.0, 0.5, 0.8, 0.0, 0.0), 2),
        (INIT, 5),
    ):
        network = trained(OfSum(), math.inf, 0, init=init)[1]
        assert network.W[1].shape[-1] == nodes * network.widths[0]
        values = network.W[1][0, 0].unique()
        assert len(values) == nodes
        if nodes == 2:
            torch.testing.assert_close(values, torch.tensor([-0.3, 1.3], dtype=torch.float64))


def test_blocks_make_out_replicates_and_members():
    """Stacked networks are what they are alone."""
    for operation in (Separable(), OfSum(), OfProduct()):
        for width in (5, math.inf):
            outputs, network = trained(operation, width, steps=3, replicates=2, neuron=Gain(deviations=[0.2]))
            x = torch.randn((4, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            together = network.forward(x, network.workspace(4, backward=False))
            for s in range(network.replicates):
                alone = network.member(s)
                torch.testing.assert_close(alone.forward(x, alone.workspace(4)), together[s], **EXACT)
            assert outputs[-1].std(0).min() > 0


# ---------------------------------------------------------------- finite networks fall onto the limit

CASES = {
    "gain": (Product(), {"neuron": Gain(deviations=[0.5])}),
    "tanh(w) tanh(h)": (Separable("tanh"), {}),
    "softplus(w + h)": (OfSum("softplus"), {"activation": Linear()}),
    "tanh(w tanh(h))": (OfProduct("tanh"), {}),
}


@pytest.mark.parametrize("case", sorted(CASES))
@pytest.mark.parametrize("depth", [3, 4])
def test_finite_networks_fall_onto_the_limit(case, depth):
    """Means over initialisations are limit + c/n + O(n^-2): two widths give the limit, and not w by its mean."""
    operation, keys = CASES[case]
    keys = keys | {"depth": depth, "steps": 15}
    particles = Particles(first=256, last=64, nodes=12, sets=2)
    members = trained(operation, math.inf, particles=particles, **keys)[0][1:]
    limit = members.mean(1)
    finite = {n: trained(operation, n, replicates=128, **keys)[0][1:] for n in (24, 48)}
    value = 2 * finite[48].mean(1) - finite[24].mean(1)
    noise = (4 * finite[48].var(1) + finite[24].var(1)) / 128 + members.var(1) / 2

    def gap(other: Tensor) -> float:
        """Root mean square over steps and samples, in units of the noise."""
        return math.sqrt(float((value - other).square().mean() / noise.mean()))

    print(f"{case}, depth {depth}: gap {gap(limit):.2f} of the noise, itself {float(noise.mean().sqrt()):.4f}")
    assert gap(limit) < 2.5
    # A single network is far from it, and the nearer the wider.
    single = [float((finite[n] - limit[:, None]).square().mean().sqrt()) for n in (24, 48)]
    assert 1.2 < single[0] / single[1] < 2.2
    assert single[1] > 2.5 * float(noise.mean().sqrt())
    if case != "gain":
        at_its_mean = Init(Normal(), INIT.tau1, INIT.mu2, 0.0, INIT.mu3, INIT.tau3)
        assert gap(trained(operation, math.inf, init=at_its_mean, particles=particles, **keys)[0][1:].mean(1)) > 4
