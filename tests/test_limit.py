"""The n = infinity network: against finite networks as n grows, and against the paper's evolution equations.

Equation numbers are the paper's. Everything is float64 but statistics, on data that all networks share.
"""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from reference import Init, build
from torch import Tensor

from mfrun.dynamics.evaluate import over_sets
from mfrun.networks.activations import Activation, ReLU, Tanh
from mfrun.networks.dense import Dense, DenseWorkspace
from mfrun.networks.fully_connected import DenseArchitecture
from mfrun.networks.laws import Law, Normal, Rademacher, Uniform
from mfrun.networks.measures import Measure
from mfrun.networks.particles import METHODS, Particles, sample

LAWS = [Normal(), Uniform(), Rademacher()]
NO_BIASES = DenseArchitecture(biases=False)


def initial(tau3: float, law: Law | None = None, tau2: float = 0.5) -> Init:
    return Init(law or Normal(), tau1=1.0, mu2=0.8, tau2=tau2, mu3=0.1, tau3=tau3)


def make(width: float, depth: int, init: Init, d: int = 3, n_out: int = 1, **keys) -> Dense:
    keys = {"architecture": DenseArchitecture(), "activation": Tanh(), "dtype": torch.float64} | keys
    return build(
        keys.pop("architecture"), keys.pop("activation"), init, width=width, depth=depth, d=d, n_out=n_out, **keys
    )


def data(steps: int, batch: int, d: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of a smooth function of x with an odd and an even part: (B, d) and (1, B)."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn((steps, batch, d), generator=g, dtype=torch.float64)
    y = torch.tanh(x.sum(-1)) + 0.3 * x[..., 0] ** 2
    return [(x[k], y[k][None]) for k in range(steps)]


def descend(network: Dense, batches: list[tuple[Tensor, Tensor]], alpha: float) -> list[Tensor]:
    """SGD on the squared loss; yhat before each step."""
    ws, outputs = DenseWorkspace(network, len(batches[0][0])), []
    for x, y in batches:
        yhat = network.forward(x, ws)
        outputs.append(yhat.clone())
        network.descend(x, 2 * (yhat - y), [alpha / len(x)] * len(network.W), ws)
    return outputs


def full(shape: tuple[int, ...], value: float) -> Tensor:
    return torch.full(shape, value, dtype=torch.float64)


def predict(network: Dense, x: Tensor) -> Tensor:
    """(S, B), for one output."""
    yhat = network.forward(x, DenseWorkspace(network, len(x), backward=False))
    return yhat.view(network.replicates, -1).clone()


# ---------------------------------------------------------------- laws and their discretisation


def moment(law: Law, m: int) -> float:
    """E x^m, in closed form."""
    if m % 2:
        return 0.0
    if isinstance(law, Normal):
        return float(scipy.special.factorial2(m - 1)) if m else 1.0
    return 3 ** (m / 2) / (m + 1) if isinstance(law, Uniform) else 1.0


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
def test_laws(law):
    """Samples, quantile function and quadrature rule all describe the one law."""
    count = 200_000
    x = law.sample((count,), torch.Generator().manual_seed(0))
    assert x.dtype == torch.float64
    u = (np.arange(4096) + 0.5) / 4096
    q = law.quantile(u)
    for m in range(1, 5):
        spread = math.sqrt((moment(law, 2 * m) - moment(law, m) ** 2) / count)
        assert abs(float((x**m).mean()) - moment(law, m)) <= 5 * spread
        assert (q**m).mean() == pytest.approx(moment(law, m), abs=0.02)
    if not isinstance(law, Rademacher):
        below = np.searchsorted(np.sort(x.numpy()), q) / count
        assert np.abs(below - u).max() < 2 / math.sqrt(count)
    np.testing.assert_allclose(law.quantile(1 - u), -q, atol=1e-12)

    for k in (2, 3, 4, 8, 15, 16):
        nodes, weights = law.quadrature(k)
        assert (weights > 0).all()
        assert weights.sum() == pytest.approx(1, abs=1e-14)
        # Exact up to degree 2 k - 1; beyond 16 the powers themselves lose digits.
        for m in range(min(2 * k, 16)):
            size = (weights * np.abs(nodes) ** m).sum()
            assert (weights * nodes**m).sum() == pytest.approx(moment(law, m), abs=1e-11 * size)


def test_grids_of_a_two_point_law_are_exact():
    """Rademacher coordinates: each combination of signs once, with equal weights, the same in every set."""
    tau1, mu2, tau2, mu3, tau3, d, n_out = 0.7, 1.5, 0.4, -0.2, 0.3, 2, 2
    init = Init(Rademacher(), tau1, mu2, tau2, mu3, tau3)
    network = make(math.inf, 4, init, d=d, n_out=n_out, particles=Particles(first=64, last=64, sets=4))
    scale = tau1 / math.sqrt(d)

    def grid(*coordinates):
        return sorted(itertools.product(*[(m - t, m + t) for m, t in coordinates]))

    for s in range(4):
        first = torch.cat([network.W[0][s], network.b[0][s]], 1).tolist()
        np.testing.assert_allclose(sorted(first), grid((0, scale), (0, scale), (mu3, tau3)))
        assert sorted(network.b[1][s, :, 0].tolist()) == [mu3 - tau3, mu3 + tau3]
        last = torch.cat([network.b[2][s], network.W[3][s].mT], 1).tolist()
        np.testing.assert_allclose(sorted(last), grid((mu3, tau3), (mu2, tau2), (mu2, tau2)))
    for p, k in zip(network.p[1:-1], (8, 2, 8), strict=True):
        torch.testing.assert_close(p.mean(torch.ones(4, k, 1)), torch.ones(4, 1, dtype=torch.float64))
        assert p.weights is None
        assert p.scale == 1 / k


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
def test_the_built_network_carries_the_initial_law(law, method):
    """p sums to 1 in every layer and set; under it the neurons have the means and variances of Section 4.2.1."""
    d, S = 6, 4
    init = Init(law, tau1=1.3, mu2=0.8, tau2=0.5, mu3=0.1, tau3=0.3)
    network = make(math.inf, 4, init, d=d, particles=Particles(first=4096 * S, last=1024, sets=S, method=method))
    p = [
        m.scale * (full((S, k, 1), 1.0) if m.weights is None else m.weights)
        for m, k in zip(network.p[1:-1], network.widths, strict=True)
    ]
    for q in p:
        torch.testing.assert_close(q.sum(1), full((S, 1), 1.0))

    def moments(x: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        mean = (q * x).sum(1, keepdim=True)
        return mean[:, 0], (q * (x - mean) ** 2).sum(1)

    close = {"rtol": 0, "atol": 5 * 1.3 / math.sqrt(4096)}
    mean, variance = moments(network.W[0], p[0])
    torch.testing.assert_close(mean, torch.zeros(S, d).double(), **close)
    torch.testing.assert_close(variance, full((S, d), 1.3**2 / d), **close)
    for l in range(3):
        mean, variance = moments(network.b[l], p[l])
        torch.testing.assert_close(mean, full((S, 1), 0.1), **close)
        torch.testing.assert_close(variance, full((S, 1), 0.3**2), **close)
    mean, variance = moments(network.W[-1].mT, p[-1])
    torch.testing.assert_close(mean, full((S, 1), 0.8), rtol=1e-12, atol=0)
    torch.testing.assert_close(variance, full((S, 1), 0.25), rtol=1e-12, atol=0)
    # The output bias is the average of i.i.d. biases.
    assert (network.b[-1] == 0.1).all()


def test_the_limit_is_small():
    """Inner weights are mu2 exactly; tau3 = 0 leaves one neuron in an inner layer; width ratios and tau2 drop out."""
    for tau3, inner in ((0.0, 1), (0.5, 16)):
        network = make(math.inf, 5, initial(tau3))
        assert network.widths == [1024, inner, inner, 16 * inner]
        for w in network.W[1:-1]:
            assert (w == 0.8).all()
        ratios = make(math.inf, 5, initial(tau3), architecture=DenseArchitecture([0.5, 3.0, 1.0, 2.0]))
        other_tau2 = make(math.inf, 5, initial(tau3, tau2=2.0))
        for name, array in network.state().items():
            assert torch.equal(array, ratios.state()[name])
            if name != "W5":
                assert torch.equal(array, other_tau2.state()[name])
        torch.testing.assert_close(other_tau2.W[-1] - 0.8, 4 * (network.W[-1] - 0.8))
    assert make(math.inf, 3, initial(0.0, tau2=0.0)).widths == [1024, 1]
    assert make(math.inf, 2, initial(0.0)).widths == [1024]


def test_seeds_and_replicates_of_both_kinds_of_network():
    """Replicate r is the same however many there are; replicates, sets and seeds differ; precisions share draws."""
    for width, per in ((20, 1), (math.inf, 4)):
        three = make(width, 3, initial(0.5), seed=1, replicates=3)
        one = make(width, 3, initial(0.5), seed=1)
        single = make(width, 3, initial(0.5), seed=1, dtype=torch.float32)
        other = make(width, 3, initial(0.5), seed=2)
        assert three.replicates == 3 * per
        assert len({tuple(w.flatten().tolist()) for w in three.W[0]}) == 3 * per
        for name, array in one.state().items():
            assert torch.equal(three.state()[name][:per], array)
            assert torch.equal(single.state()[name], array.float())
        assert not torch.equal(one.W[0], other.W[0])


# ---------------------------------------------------------------- types: neurons that start equal stay equal


def test_neurons_of_one_type_stay_equal():
    """LIMIT.md, Section 2, from the finite side: W_l = mu2 at the start makes a wide network a small one for ever."""
    mu2, L, d, n = 0.7, 3, 2, 6
    g = torch.Generator().manual_seed(0)
    counts = [[1, 1, 4], [2, 4], [1, 2, 3]]  # neurons of each type in a layer of 6

    def randn(*shape):
        return torch.randn((1, *shape), generator=g, dtype=torch.float64)

    types = [len(c) for c in counts]
    W = [randn(types[0], d), *[full((1, types[l], types[l - 1]), mu2) for l in (1, 2)], 1 + randn(1, types[2])]
    b = [*[0.5 * randn(k, 1) for k in types], full((1, 1, 1), 0.1)]
    p = [Measure(1.0, torch.tensor(c).double().view(1, -1, 1) / n) for c in counts]
    member = [torch.repeat_interleave(torch.arange(len(c)), torch.tensor(c)) for c in counts]
    wide = Dense(
        [
            W[0][:, member[0]],
            W[1][:, member[1]][:, :, member[0]],
            W[2][:, member[2]][:, :, member[1]],
            W[3][:, :, member[2]],
        ],
        [*[b[l][:, member[l]] for l in range(L)], b[3].clone()],
        [Measure.uniform(n)] * L,
        Tanh(),
    )
    start = W[1].clone()
    small = Dense(W, b, p, Tanh())
    batches = data(80, 4, d, 0)
    exact = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(
        torch.stack(descend(wide, batches, 0.2)), torch.stack(descend(small, batches, 0.2)), **exact
    )
    for l in range(L):
        torch.testing.assert_close(wide.b[l], small.b[l][:, member[l]], **exact)
    torch.testing.assert_close(wide.W[0], small.W[0][:, member[0]], **exact)
    for l in (1, 2):
        torch.testing.assert_close(wide.W[l], small.W[l][:, member[l]][:, :, member[l - 1]], **exact)
    torch.testing.assert_close(wide.W[3], small.W[3][:, :, member[2]], **exact)
    # Types do part from each other, in rows and in columns.
    assert (small.W[1] - start).abs().max() > 0.05
    assert (small.W[1][0, 0] - small.W[1][0, 1]).abs().max() > 1e-3
    assert (small.W[1][0, :, 0] - small.W[1][0, :, 1]).abs().max() > 1e-3


# ---------------------------------------------------------------- the paper's equations, solved directly


@pytest.mark.parametrize("biases", [False, True])
def test_two_layers_by_equation_5(biases):
    """theta = (beta, w, b): d theta / dt = -E_P{d2 L grad_theta sigma(x; theta)}, Euler steps, NumPy, all sets."""
    d, n_out, B, alpha, S = 3, 2, 5, 0.2, 2
    init = Init(Normal(), tau1=1.0, mu2=0.8, tau2=0.5, mu3=0.1, tau3=0.4)
    particles = Particles(first=64 * S, last=64, sets=S)
    network = make(
        math.inf, 2, init, d=d, n_out=n_out, particles=particles, architecture=DenseArchitecture(biases=biases)
    )
    assert network.widths == [64]
    theta = []
    for s in range(S):
        zeros = np.zeros(64)
        bias = network.b[0][s, :, 0].numpy().copy() if biases else zeros
        out = network.b[1][s, :, 0].numpy().copy() if biases else np.zeros(n_out)
        theta.append((network.W[0][s].numpy().copy(), bias, network.W[1][s].numpy().T.copy(), out))
    # Weights, biases and output weights of a particle are independent.
    w, bias, beta, _ = theta[0]
    together = np.column_stack([w, beta, *([bias] if biases else [])])
    assert np.abs(np.corrcoef(together.T) - np.eye(together.shape[1])).max() < 0.4

    rng, ws, change = np.random.default_rng(0), DenseWorkspace(network, B), 0.0
    for _ in range(20):
        x, y = rng.standard_normal((B, d)), rng.standard_normal((n_out, B))
        yhat = network.forward(torch.from_numpy(x), ws)
        for s in range(S):
            w, bias, beta, out = theta[s]
            a = np.tanh(x @ w.T + bias)  # (B, particles)
            expected = (a @ beta) / len(w) + out
            np.testing.assert_allclose(yhat[s].numpy().T, expected, rtol=1e-10, atol=1e-11)
            slope = 2 * (expected - y.T)  # (B, n_out)
            hidden = (slope @ beta.T) * (1 - a**2)
            change = max(change, np.abs(w - network.W[0][s].numpy()).max())
            theta[s] = (
                w - alpha * hidden.T @ x / B,
                bias - alpha * biases * hidden.mean(0),
                beta - alpha * a.T @ slope / B,
                out - alpha * biases * slope.mean(0),
            )
        network.descend(torch.from_numpy(x), 2 * (yhat - torch.from_numpy(y)), [alpha / B] * 2, ws)
    for s in range(S):
        for mine, theirs in zip((network.W[0][s], network.W[1][s].mT), (theta[s][0], theta[s][2]), strict=True):
            np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-10, atol=1e-11)
    assert change < 1e-10


def two_points(m: float, t: float) -> list[tuple[float, float]]:
    return [(m - t, 0.5), (m + t, 0.5)]


def hermite(m: float, t: float, k: int) -> list[tuple[float, float]]:
    """Gauss-Hermite rule of N(m, t^2), from NumPy's tables."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(k)
    return [(m + t * x, w / weights.sum()) for x, w in zip(nodes, weights, strict=True)]


def evolve(rho1, rho2, xs, ys, alpha, steps):
    """Euler steps of Equations (16) to (24), word by word, for finitely supported rho_1 and rho_2.

    rho1: [(w, probability)]; rho2: [(beta, probability)], each with its function f, a constant at t = 0. Along
    d w / dt = G_w the left side of Eq. (23) is the total derivative of f^t(w^t), so f is a table over rho_1's atoms.
    Returns yhat on the data before each step, the values of f, and the w.
    """
    w = [np.array(atom) for atom, _ in rho1]
    P1, P2 = [q for _, q in rho1], [q for _, q in rho2]
    beta = [b for b, _ in rho2]
    f = [[MU2] * len(rho1) for _ in rho2]
    history = []

    def sigma(h):
        return math.tanh(h)

    def dsigma(h):
        return 1 - math.tanh(h) ** 2

    for _ in range(steps):
        Gw = [np.zeros_like(v) for v in w]
        Gf = [[0.0] * len(w) for _ in beta]
        Gbeta = [0.0] * len(beta)
        outputs = []
        for x, y in zip(xs, ys, strict=True):
            H1 = [float(v @ x) for v in w]
            H2 = [sum(P1[i] * f[j][i] * sigma(H1[i]) for i in range(len(w))) for j in range(len(beta))]  # (16)
            yhat = sum(P2[j] * beta[j] * sigma(H2[j]) for j in range(len(beta)))
            outputs.append(yhat)
            dL = 2 * (yhat - y) / len(xs)
            for j in range(len(beta)):
                Gbeta[j] -= dL * sigma(H2[j])  # (17)
                DeltaH2 = beta[j] * dsigma(H2[j])  # (18)
                for i in range(len(w)):
                    Gf[j][i] -= dL * DeltaH2 * sigma(H1[i])  # (19)
            for i in range(len(w)):
                total = sum(P2[j] * f[j][i] * beta[j] * dsigma(H2[j]) for j in range(len(beta)))
                Gw[i] -= dL * dsigma(H1[i]) * total * x  # (20), (21)
        history.append(outputs)
        w = [v + alpha * g for v, g in zip(w, Gw, strict=True)]  # (22)
        f = [[v + alpha * g for v, g in zip(*rows, strict=True)] for rows in zip(f, Gf, strict=True)]  # (23)
        beta = [v + alpha * g for v, g in zip(beta, Gbeta, strict=True)]  # (24)
    return np.array(history), f, w


MU2 = 0.8


@pytest.mark.parametrize("case", ["rademacher", "hermite"])
def test_three_layers_by_equations_22_to_24(case):
    """The paper's formal system of Section 2.2 and build(width=inf) are one thing, to rounding."""
    tau1, tau2, alpha, steps = 1.2, 0.5, 0.3, 40
    if case == "rademacher":
        d, init = 2, Init(Rademacher(), tau1, MU2, tau2, 0.0, 0.0)
        particles = Particles(first=16, last=8, sets=2)
        atoms = [((u, v), p * q) for u, p in two_points(0, tau1 / 2**0.5) for v, q in two_points(0, tau1 / 2**0.5)]
        systems = [(atoms, two_points(MU2, tau2))] * 2
    else:
        d, init = 1, Init(Normal(), tau1, MU2, tau2, 0.0, 0.0)
        particles = Particles(first=8, last=8, nodes=4, sets=2)
        # The second set has a node less in each rule.
        systems = [([((u,), p) for u, p in hermite(0, tau1, k)], hermite(MU2, tau2, k)) for k in (4, 3)]
    network = make(math.inf, 3, init, d=d, architecture=NO_BIASES, particles=particles)
    assert network.replicates == 2
    rng = np.random.default_rng(0)
    xs, ys = rng.standard_normal((5, d)), rng.standard_normal(5)
    batch = (torch.from_numpy(xs), torch.from_numpy(ys)[None])
    outputs = torch.stack(descend(network, [batch] * steps, alpha))[:, :, 0].numpy()
    for s, (rho1, rho2) in enumerate(systems):
        history, f, w = evolve(rho1, rho2, xs, ys, alpha, steps)
        np.testing.assert_allclose(outputs[:, s], history, rtol=1e-10, atol=1e-11)
        assert np.abs(history[-1] - history[0]).max() > 0.3
        assert np.ptp(f) > 0.1  # f has become a function of w, and differs from neuron to neuron
        # The weights themselves, sorted: the order of types is build's own business.
        seen = network.p[1].weights[s, :, 0] > 0 if network.p[1].weights is not None else slice(None)
        mine = network.W[0][s][seen].numpy()
        np.testing.assert_allclose(np.sort(mine, 0), np.sort(np.array(w), 0), rtol=1e-10, atol=1e-11)


# ---------------------------------------------------------------- finite networks fall onto the limit

REPLICATES = {16: 96, 32: 192, 64: 192, 128: 48}  # by width
STEPS, BATCH, ALPHA, D = 60, 16, 0.1, 3
CASES = list(itertools.product((2, 3, 4), (ReLU(), Tanh()), (0.0, 0.5)))
CASES_IDS = [f"L{L}-{type(a).__name__}-tau3_{t}" for L, a, t in CASES]


@cache
def holdout() -> tuple[Tensor, Tensor]:
    ((x, y),) = data(1, 200, D, 99)
    return x, y


def trained(width: float, L: int, activation: Activation, tau3: float, **keys) -> Tensor:
    """Outputs (S, points) on fresh points, after SGD on one stream of data for all widths.

    In float32, which takes half the time, and whose rounding is far below chance.
    """
    network = make(width, L + 1, initial(tau3), d=D, activation=activation, dtype=torch.float32, **keys)
    descend(network, [(x.float(), y.float()) for x, y in data(STEPS, BATCH, D, 5)], ALPHA)
    return predict(network, holdout()[0].float()).double()


def losses(yhat: Tensor) -> Tensor:
    return ((yhat - holdout()[1]) ** 2).mean(1)


@pytest.mark.parametrize(("L", "activation", "tau3"), CASES, ids=CASES_IDS)
def test_finite_networks_fall_onto_the_limit(L, activation, tau3):
    """The gap of single networks shrinks like n^-1/2 or faster; their mean extrapolates to the limit."""
    members = trained(math.inf, L, activation, tau3)
    limit = over_sets({"loss": losses(members).tolist()}, 4)
    loss, bar = limit["loss"][0], limit["loss_bar"][0]
    finite = {n: trained(n, L, activation, tau3, replicates=S, seed=n) for n, S in REPLICATES.items()}

    # Root mean square over replicates and points; the replicates' scatter gives its error.
    log_gap, error = [], []
    for n, S in REPLICATES.items():
        squares = ((finite[n] - members.mean(0)) ** 2).mean(1)
        log_gap.append(0.5 * math.log(float(squares.mean())))
        error.append(0.5 * float(squares.std() / squares.mean()) / math.sqrt(S))
    (rate, _), covariance = np.polyfit(np.log(list(REPLICATES)), log_gap, 1, w=1 / np.array(error), cov="unscaled")
    sigma = math.sqrt(covariance[0, 0])
    assert rate - 2 * sigma <= -0.5, f"rate {rate:.3f} +- {sigma:.3f}"
    assert sigma < 0.1

    # The means over replicates are limit + c / n + O(n^-2): two widths give the limit, for the loss ...
    def extrapolate(measure) -> tuple[Tensor, Tensor]:
        wide, narrow = measure(finite[64]), measure(finite[32])
        variance = 4 * wide.var(0) / len(wide) + narrow.var(0) / len(narrow)
        return 2 * wide.mean(0) - narrow.mean(0), variance

    value, variance = extrapolate(losses)
    tolerance = 3 * math.sqrt(variance) + bar
    print(f"{rate:.3f} +- {sigma:.3f}; {loss:.5f} +- {bar:.5f}; {value:.5f} +- {math.sqrt(variance):.5f}")
    assert abs(float(value) - loss) <= tolerance < 0.1 * loss
    # ... and for the function, root mean square over the points.
    value, variance = extrapolate(lambda yhat: yhat)
    gap = float((value - members.mean(0)).square().mean())
    noise = float((variance + members.var(0) / len(members)).mean())
    assert math.sqrt(gap / noise) < 2


@pytest.mark.parametrize("tau3", [0.0, 0.5])
@pytest.mark.parametrize("activation", [ReLU(), Tanh()], ids=["ReLU", "Tanh"])
def test_discretisations_agree_within_their_bars(activation, tau3):
    """Every method at two particle counts agrees with the finest one within their bars."""
    results = {}
    for method, first in itertools.product(METHODS, (1024, 8192)):
        particles = Particles(first=first, last=1024, nodes=16 if first == 1024 else 24, sets=8, method=method)
        curve = over_sets({"loss": losses(trained(math.inf, 3, activation, tau3, particles=particles)).tolist()}, 8)
        results[method, first] = (curve["loss"][0], curve["loss_bar"][0])
    print({k: f"{v[0]:.6f} +- {v[1]:.6f}" for k, v in results.items()})
    finest, its_bar = results["sobol", 8192]
    # A bar is a 95 % interval: one of six results may lie outside its own, none may lie outside twice of it.
    distance = {key: abs(loss - finest) / (bar + its_bar) for key, (loss, bar) in results.items()}
    assert sum(r > 1 for r in distance.values()) <= 1, distance
    assert max(distance.values()) < 2, distance
    # Bars mean something: more particles shrink them, and they are small beside the loss. (With relu and random biases
    # the nodes of the biases make up the rest of the bar, and particles alone no longer shrink it.)
    for method in METHODS:
        assert results[method, 8192][1] < results[method, 1024][1] < 0.1 * finest
    if isinstance(activation, Tanh) or tau3 == 0:
        assert its_bar < 0.5 * results["plain", 8192][1]


class ThreePoints(Law):
    """A law of a user's own."""

    points = np.array([-1.0, 0.0, 1.0]) * math.sqrt(3 / 2)

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.from_numpy(self.points)[torch.randint(0, 3, shape, generator=generator)]

    def quantile(self, u: np.ndarray) -> np.ndarray:
        return self.points[np.minimum((3 * u).astype(int), 2)]

    def quadrature(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        if k >= 3:
            return self.points, np.full(3, 1 / 3)
        return np.array([-1.0, 1.0])[2 - k :], np.full(k, 1 / k)


def test_a_law_of_a_few_points_has_them_as_its_types() -> None:
    types = Particles(first=64, last=64, sets=4).types(ThreePoints(), 2, 4, (0,), layer="last")
    assert types.count == 9
    assert types.period == 1
    for nodes in types.nodes:
        pairs = sorted(map(tuple, nodes.tolist()))
        np.testing.assert_allclose(pairs, sorted(itertools.product(ThreePoints.points, repeat=2)))


def test_more_coordinates_than_the_sequence_has() -> None:
    """VGG16 gives 25088 numbers; each coordinate is still of the law, and well spread as far as the sequence goes."""
    points = sample("sobol", Normal(), 21_203, 64, (0,))
    assert points.shape == (64, 21_203)
    assert bool(points.isfinite().all())
    ends = points[:, -2:]
    assert ends.abs().max() > 1
    assert not torch.equal(ends[:, 0], ends[:, 1])
    # A scrambled sequence has one point in each 64th of every axis.
    cells = torch.from_numpy(scipy.stats.norm.cdf(points[:, :5]) * 64).floor().long()
    assert all(sorted(cells[:, i].tolist()) == list(range(64)) for i in range(5))
