"""Convolutional networks: autograd and symmetry for a step, Table 1, the limit, and runs from the command line.

Everything that should hold to rounding is float64.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from commands import curves, here, mfrun
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from reference import ACTIVATIONS, LOSSES, Init, build_conv, labels
from torch import Tensor

from mfrun.config import conf_dir
from mfrun.errors import ConfigError
from mfrun.networks.activations import Linear, ReLU, Tanh
from mfrun.networks.cnn import ConvArchitecture
from mfrun.networks.conv import SLICE, Conv, Convolution
from mfrun.networks.laws import Normal
from mfrun.networks.measures import Measure
from mfrun.networks.particles import Particles
from mfrun.networks.products import arrange, switches_kept
from mfrun.problems.tasks import Task
from mfrun.registry import create, find
from mfrun.runs.columns import ASIDE

EXACT = {"rtol": 1e-10, "atol": 1e-13}
INIT = Init(Normal(), tau1=1.4, mu2=0.8, tau2=0.5, mu3=0.1, tau3=0.5)
FEW = Particles(first=32, last=16, nodes=3, sets=2)


def make(layers, width, image, n_out=2, *, activation=None, init=INIT, normalise="terms", biases=True, **keys) -> Conv:
    architecture = ConvArchitecture(layers, normalise, biases)
    keys = {"particles": FEW, "dtype": torch.float64} | keys
    return build_conv(architecture, activation or Tanh(), init, width=width, image=image, n_out=n_out, **keys)


def table_1() -> ConvArchitecture:
    """The architecture of conf/architecture/cnn.yaml."""
    node = OmegaConf.to_container(OmegaConf.load(conf_dir() / "architecture" / "cnn.yaml"))
    return create("architecture", node["architecture"], "architecture")


def outputs(network: Conv, x: Tensor) -> Tensor:
    """yhat (S, n_out, B), from a pass that no backward pass follows."""
    yhat = network.forward(x, network.workspace(len(x), backward=False))
    return yhat.reshape(network.replicates, network.n_out, -1).clone()


def descend(network: Conv, batches: list[tuple[Tensor, Tensor]], rates: list[float]) -> list[Tensor]:
    """SGD on the squared loss; yhat before each step."""
    seen: list[Tensor] = []
    for x, y in batches:
        ws = network.workspace(y.shape[-1])
        yhat = network.forward(x, ws)
        seen.append(yhat.clone())
        network.descend(x, 2 * (yhat - y), [r / len(x) for r in rates], ws)
    return seen


# ---------------------------------------------------------------- one step


def plain(leaves: dict[str, Tensor], s: int, layers: list[Convolution], activation: str, x: Tensor, image, normalise):
    """Appendix C for network s, in plain PyTorch and with autograd: yhat (n_out, B)."""
    a = x.view(-1, *image).movedim(3, 1)
    for l, layer in enumerate(layers, 1):
        W = leaves[f"W{l}"][s]
        terms = W[0].numel() if normalise == "terms" else W.shape[1]
        h = F.conv2d(a, W, None, layer.stride, layer.pad) / (terms if l > 1 else 1)
        if "b1" in leaves:
            h = h + leaves[f"b{l}"][s][:, None, None]
        a = ACTIVATIONS[activation](h)
        if layer.pool > 1:
            a = F.max_pool2d(a, layer.pool, layer.pool_stride, layer.pool_padding)
    beta = leaves[f"W{len(layers) + 1}"][s]
    assert a.shape[1:] == beta.shape[1:]
    yhat = torch.einsum("bnhw,onhw->ob", a, beta) / (beta[0].numel() if normalise == "terms" else len(beta[0]))
    return yhat + leaves[f"b{len(layers) + 1}"][s][:, None] if "b1" in leaves else yhat


convolutions = st.lists(
    st.builds(
        Convolution,
        ratio=st.sampled_from([0.5, 1.0, 1.5]),
        kernel=st.integers(2, 3),
        stride=st.integers(1, 2),
        padding=st.sampled_from([None, 1]),
        pool=st.integers(2, 3),
        pool_stride=st.sampled_from([None, 1, 2]),
        pool_padding=st.integers(0, 1),
    )
    | st.builds(Convolution, ratio=st.sampled_from([0.5, 1.0, 1.5]), kernel=st.integers(1, 3)),
    min_size=1,
    max_size=3,
)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    layers=convolutions,
    n=st.integers(2, 5),
    image=st.sampled_from([(9, 9, 1), (10, 8, 2), (8, 9, 3)]),
    batch=st.integers(1, 4),
    replicates=st.integers(1, 2),
    own_data=st.booleans(),
    biases=st.booleans(),
    activation=st.sampled_from(["relu", "tanh", "gelu"]),
    normalise=st.sampled_from(["terms", "filters"]),
    seed=st.integers(0, 2**31),
)
def test_a_step_is_autograd_times_the_widths(
    layers, n, image, batch, replicates, own_data, biases, activation, normalise, seed
):
    """Gradient times n_l and the terms of the sum (W_1 and biases: n_l alone; the output counts as 1), batch mean."""
    n_out, L = 2, len(layers)
    try:
        ConvArchitecture(layers).sizes(image)
    except ConfigError:
        return
    keys = {"activation": find("activation", activation, "")(), "normalise": normalise, "biases": biases}
    network = make(layers, n, image, n_out, seed=seed, replicates=replicates, **keys)
    g = torch.Generator().manual_seed(seed)
    stack = (replicates,) if own_data and replicates > 1 else ()
    x = torch.randn((*stack, batch, math.prod(image)), generator=g, dtype=torch.float64)
    y = labels(Task.CLASSES, n_out, batch, g, stack)
    rates = [0.3 + 0.1 * l for l in range(L + 1)]

    leaves = {key: array.clone().requires_grad_() for key, array in network.state().items()}
    total, expected = torch.zeros((), dtype=torch.float64), []
    for s in range(replicates):
        yhat = plain(leaves, s, layers, activation, x[s] if stack else x, image, normalise)
        expected.append(yhat.detach())
        total = total + LOSSES["cross_entropy"](y[s] if stack else y, yhat).mean()
    total.backward()

    ws = network.workspace(batch)
    yhat = network.forward(x, ws)
    torch.testing.assert_close(yhat.reshape(replicates, n_out, batch), torch.stack(expected), **EXACT)
    loss = find("loss", "cross_entropy", "loss")()
    network.descend(x, loss.gradient(y, yhat), [r / batch for r in rates], ws)

    assert network.widths == [round(n * layer.ratio) for layer in layers]
    assert set(leaves) == {f"W{l}" for l in range(1, L + 2)} | ({f"b{l}" for l in range(1, L + 2)} if biases else set())
    for l in range(1, L + 2):
        rows = network.widths[l - 1] if l <= L else 1
        W = leaves[f"W{l}"]
        terms = 1 if l == 1 else W[0, 0].numel() if normalise == "terms" else W.shape[2]
        for key, factor in {f"W{l}": rows * terms, f"b{l}": rows}.items():
            if key in leaves:
                after = leaves[key].detach() - rates[l - 1] * factor * leaves[key].grad
                torch.testing.assert_close(network.state()[key], after, **EXACT)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    widths=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    stack=st.integers(1, 2),
    normalise=st.sampled_from(["terms", "filters"]),
    activation=st.sampled_from(["relu", "tanh"]),
    place=st.tuples(st.integers(0, 99), st.integers(0, 99)),
    share=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**31),
)
def test_a_filter_can_be_split_into_copies(widths, stack, normalise, activation, place, share, seed):
    """LIMIT.md, Section 1: copies that share the weight p of a filter change nothing, at any later step."""
    g = torch.Generator().manual_seed(seed)
    L, image, n_out, batch = len(widths), (7, 6, 2), 2, 3
    layers = [Convolution(stride=1 + (l == 0), pool=2 - (l > 0)) for l in range(L)]
    architecture = ConvArchitecture(layers, normalise)
    kernels = architecture.kernels(image)

    def randn(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64)

    sizes = [2, *widths, n_out]
    W = [0.5 * randn(stack, sizes[l + 1], sizes[l], *kernels[l]) + 0.2 * (l > 0) for l in range(L + 1)]
    b = [0.3 * randn(stack, k) for k in sizes[1:]]
    p = [torch.softmax(randn(stack, k, 1), 1) for k in widths]

    l, i = place[0] % L, place[1] % widths[place[0] % L]
    W2, b2, p2 = [w.clone() for w in W], [v.clone() for v in b], [q.clone() for q in p]
    W2[l] = torch.cat([W[l], W[l][:, i : i + 1]], 1)
    b2[l] = torch.cat([b[l], b[l][:, i : i + 1]], 1)
    W2[l + 1] = torch.cat([W[l + 1], W[l + 1][:, :, i : i + 1]], 2)
    p2[l] = torch.cat([p[l], p[l][:, i : i + 1] * share], 1)
    p2[l][:, i] *= 1 - share

    sigma, c = find("activation", activation, "")(), architecture.terms(image)
    one = Conv(W, b, [Measure(1.0, q) for q in p], sigma, layers, c, image)
    two = Conv(W2, b2, [Measure(1.0, q) for q in p2], sigma, layers, c, image)
    start = [w.clone() for w in W]
    batches = [(randn(batch, math.prod(image)), randn(n_out, batch)) for _ in range(15)]
    rates = [0.02] * (L + 1)
    for yhat1, yhat2 in zip(descend(one, batches, rates), descend(two, batches, rates), strict=True):
        torch.testing.assert_close(yhat1, yhat2, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(two.W[l][:, -1], two.W[l][:, i], rtol=1e-9, atol=1e-10)
    assert not torch.allclose(start[-1], one.W[-1], rtol=1e-6)
    if activation == "tanh":  # relu filters may all be dead
        assert not torch.allclose(start[l], one.W[l], rtol=1e-6)


def test_normalisation():
    """Inner weights of 1: ``terms`` keeps a constant image as it is, ``filters`` makes it 9 times larger a layer."""
    layers = [{"padding": 0}] * 3
    init = Init(Normal(), tau1=1.0, mu2=1.0, tau2=0.0, mu3=0.0, tau3=0.0)
    x = torch.full((1, 81), 2.0, dtype=torch.float64)
    for width in (5, math.inf):
        for normalise, factor, pixels in (("terms", 1, 1), ("filters", 9, 9)):
            network = make(layers, width, (9, 9, 1), 1, activation=Linear(), init=init, normalise=normalise)
            first = 2 * network.W[0].sum((2, 3, 4)).mean(1)  # the mean of h_1
            torch.testing.assert_close(outputs(network, x)[:, 0, 0], first * factor**2 * pixels, **EXACT)


def test_replicates_side_by_side():
    """S networks at once compute what each computes alone, on shared data and on their own."""
    layers, image, batch = [{"stride": 2, "ratio": 1.5}, {"pool": 3, "pool_stride": 2, "pool_padding": 1}], (8, 8, 2), 3
    c = ConvArchitecture(layers).terms(image)
    g = torch.Generator().manual_seed(0)
    for shape in ((batch, 128), (3, batch, 128)):
        three = make(layers, 4, image, replicates=3, seed=1)
        alone = []
        for s in range(3):
            W, b = [w[s : s + 1].clone() for w in three.W], [v[s : s + 1].clone() for v in three.b]
            alone.append(Conv(W, b, three.p[1:-1], Tanh(), three.layers, c, image))
        x = torch.randn(shape, generator=g, dtype=torch.float64)
        y = torch.randn((2, batch), generator=g, dtype=torch.float64)
        for _ in range(4):
            descend(three, [(x, y)], [0.2] * 3)
            for s, one in enumerate(alone):
                descend(one, [(x if x.dim() == 2 else x[s], y)], [0.2] * 3)
        for s, one in enumerate(alone):
            for name, array in one.state().items():
                torch.testing.assert_close(three.state()[name][s : s + 1], array, **EXACT)


def test_evaluation_in_slices():
    """A batch larger than a slice: the outputs and fractions of a pass that keeps everything; fractions by hand."""
    layers, image = [{"stride": 2}, {"ratio": 2, "pool": 2}], (8, 8, 1)
    x = torch.randn((SLICE + 7, 64), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for width in (4, math.inf):
        network = make(layers, width, image, replicates=2)
        sliced, whole = network.workspace(len(x), backward=False), network.workspace(len(x))
        torch.testing.assert_close(network.forward(x, sliced), network.forward(x, whole), **EXACT)
        for l, (mine, other) in enumerate(zip(network.nonpositive(sliced), network.nonpositive(whole), strict=True)):
            torch.testing.assert_close(mine, other, **EXACT)
            p = network.p[l + 1].probabilities(network.widths[l], 1)
            by_hand = ((whole.traces[1][l].h <= 0).double().mean((2, 3)) @ p).sum()
            torch.testing.assert_close(mine[1], by_hand, **EXACT)
            assert 0 < mine[1] < len(x)


# ---------------------------------------------------------------- Table 1 and the initial law


def test_table_1():
    """Output sizes 16, 8, 8, 8, 4, 4, 2 on CIFAR-10, and an output of 10 x 4 n; the initial law of Appendix C."""
    architecture = table_1()
    assert architecture.sizes((32, 32, 3)) == [(s, s) for s in (32, 16, 8, 8, 8, 4, 4, 2)]
    assert architecture.normalise == "terms"
    init = Init(Normal(), tau1=math.sqrt(2), mu2=1.0, tau2=math.sqrt(0.1), mu3=0.0, tau3=0.0)
    network = build_conv(architecture, ReLU(), init, width=64, image=(32, 32, 3), n_out=10)
    assert [tuple(w.shape[1:]) for w in network.W] == [(64, 3, 3, 3), *[(64, 64, 3, 3)] * 6, (10, 64, 2, 2)]
    assert all(float(v.abs().max()) == 0 for v in network.b)
    for l, (w, mean, variance) in enumerate(zip(network.W, [0, *[1] * 7], [2 / 27, *[0.1] * 7], strict=True)):
        assert float(w.mean()) == pytest.approx(mean, abs=5 * math.sqrt(variance / w.numel())), l
        assert float(w.var()) == pytest.approx(variance, rel=5 * math.sqrt(2 / w.numel())), l
    # Activations stay of order 1: all classes are about as likely as one another.
    x = torch.rand((4, 3072), generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert float(outputs(network, x).softmax(1).log().abs().max()) == pytest.approx(math.log(10), rel=0.2)


def test_types_of_the_limit():
    """One filter for an inner layer without random biases, one for each bias type with; particles at both ends."""
    layers, image = [{"stride": 2}, {}, {"pool": 2}, {"pool": 2}], (8, 8, 2)
    for tau3, inner in ((0.0, 1), (0.5, 3)):
        init = Init(Normal(), tau1=1.4, mu2=0.8, tau2=0.5, mu3=0.1, tau3=tau3)
        network = make(layers, math.inf, image, n_out=3, init=init)
        assert network.widths == [16, inner, inner, 8]
        assert network.replicates == 2
        for l in (1, 2, 3):
            assert float((network.W[l] - 0.8).abs().max()) == 0
        assert network.W[-1].shape == (2, 3, 8, 1, 1)
        # Each kernel weight and output weight has its own coordinate of the particles, with its own spread.
        assert float(network.W[0].std(1).mean()) == pytest.approx(1.4 / math.sqrt(18), rel=0.1)
        assert float(network.W[-1].std(2).mean()) == pytest.approx(0.5, rel=0.15)
        coordinates = torch.cat([network.W[0].flatten(2), network.b[0].unsqueeze(2)], 2)[0]
        assert len(coordinates.unique(dim=1).T) == 19


# ---------------------------------------------------------------- finite networks fall onto the limit

IMAGE, STEPS, BATCH, ALPHA = (6, 6, 1), 20, 8, 0.05
LAYERS = [{"stride": 2}, {}, {"pool": 2, "pool_stride": 1}]


def data(steps: int, batch: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Images and two functions of them that see patterns: (B, 36) and (2, B), float32."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn((steps, batch, 6, 6), generator=g)
    y = torch.stack([torch.tanh(x[..., :3, :].sum((-1, -2)) / 3), (x[..., 1:] * x[..., :-1]).mean((-1, -2))], 1)
    return [(x[k].flatten(1), y[k]) for k in range(steps)]


@pytest.mark.parametrize(("activation", "tau3"), [(ReLU(), 0.0), (Tanh(), 0.4)], ids=["relu", "tanh-biases"])
def test_finite_networks_fall_onto_the_limit(activation, tau3):
    """The gap of single networks to the limit shrinks like n^-1/2 or faster, after training on shared data."""
    init = Init(Normal(), tau1=1.4, mu2=1.0, tau2=0.5, mu3=0.1, tau3=tau3)
    ((x, _),) = data(1, 50, 99)

    def trained(width: float, replicates: int, steps: int = STEPS) -> Tensor:
        particles = Particles(first=512, last=256, nodes=8, sets=2)
        keys = {"activation": activation, "init": init, "replicates": replicates, "particles": particles}
        network = make(LAYERS, width, IMAGE, dtype=torch.float32, **keys)
        descend(network, data(steps, BATCH, 5), [ALPHA] * 4)
        return outputs(network, x)

    sets = trained(math.inf, 1)
    moved = float((sets - trained(math.inf, 1, steps=0)).abs().mean())
    limit, own = sets.mean(0), float((sets[0] - sets[1]).square().mean().sqrt()) / 2
    assert moved > 0.1
    widths = {8: 24, 32: 16, 128: 8}
    gaps = [float((trained(n, S) - limit).square().mean().sqrt()) for n, S in widths.items()]
    rate = -np.polyfit(np.log(list(widths)), np.log(gaps), 1)[0]
    print(f"gaps {gaps}, rate {rate:.2f}, the limit's own error {own:.5f}, moved {moved:.3f}")
    assert rate > 0.4
    assert gaps[0] > gaps[1] > gaps[2] > own
    assert gaps[2] < 0.1 * moved


# ---------------------------------------------------------------- runs


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with small images in ``a.npz``, three classes, and no images in ``b.npz``."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 30), ("test", 15)):
        arrays[f"x_{split}"] = rng.integers(0, 256, (count, 6, 6, 2), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(count) % 3
    np.savez("a.npz", **arrays)
    np.savez("b.npz", **{k: v.reshape(len(v), -1) if k[0] == "x" else v for k, v in arrays.items()})
    return tmp_path


RUN = ["dataset=arrays", "dataset.path=a.npz", "loss=cross_entropy", "architecture=cnn", "threads=1", "batch=4"]
SMALL = ["architecture.layers=[{stride:2},{ratio:2,pool:2}]", "particles.first=16", "particles.last=16"]


@pytest.mark.parametrize("width", ["4", "inf"])
def test_a_run_and_its_resumption(images, width):
    """The depth follows from the layers; a resumed run ends with the rows of an uninterrupted one."""
    keys = ["train", *RUN, *SMALL, f"width={width}", "replicates=2", "replicate_data=independent"]
    code, out, err = mfrun(*keys, "dir=whole", "steps=20")
    assert (code, err.count("Traceback")) == (0, 0), err
    assert "finished" in out
    for argv in (["dir=parts", "steps=9"], ["dir=parts", "steps=20", "resume=true"]):
        assert here(*keys, *argv) == 0
    whole, parts = curves("whole"), curves("parts")
    assert OmegaConf.load("whole/config.yaml").depth == 3
    nonpositive = [c for c in whole[0] if c.startswith("nonpositive") and not c.endswith(ASIDE)]
    assert nonpositive == ["nonpositive_1", "nonpositive_2"]
    assert float(whole[0]["train_loss"]) == pytest.approx(math.log(3), rel=0.2)
    assert float(whole[-1]["train_loss"]) != float(whole[0]["train_loss"])
    in_both = {row["step"] for row in whole}
    assert [row for row in parts if row["step"] in in_both] == whole
    assert {row["replicate"] for row in whole} == {"0", "1"}


BAD = [
    (
        "architecture.layers=[{kernel:3,foo:2}]",
        r"architecture.layers[0].foo=2: unknown key; keys here are ratio, kernel",
    ),
    ("architecture.layers=[{},{stride:0}]", "architecture.layers[1].stride=0: must be at least 1 pixel"),
    ("architecture.layers=[{kernel:three}]", "architecture.layers[0].kernel=three: must be a whole number"),
    ("architecture.layers=[{padding:3}]", "architecture.layers[0].padding=3: 0 to 2 pixels at kernel=3"),
    ("architecture.layers=[{pool:2,pool_padding:2}]", "architecture.layers[0].pool_padding=2: 0 to 1 pixels at pool=2"),
    ("architecture.layers=[{ratio:0}]", "architecture.layers[0].ratio=0.0: n_l / n must be positive"),
    ("architecture.layers=[{},{ratio:0.001}]", "architecture.layers[1].ratio=0.001: leaves no filters at width=100"),
    ("architecture.layers=[{kernel:9,padding:0}]", "architecture.layers[0]={'kernel': 9, "),
    ("architecture.layers=[3]", "architecture.layers[0]=3: a convolution is a mapping of keys"),
    ("architecture.layers=3", "architecture.layers=3: must be a list"),
    ("architecture.layers=[]", "architecture.layers=[]: lists the convolutions, at least one"),
    ("architecture.normalise=area", "architecture.normalise=area: one of terms, filters"),
    ("depth=4", "depth=4: architecture.layers lists 7 convolutions; with the output that is depth=8"),
    ("schedule.multipliers=[1,2]", "schedule.multipliers=[1.0, 2.0]: depth=8 needs 8 factors"),
    ("dataset.path=b.npz", "architecture=cnn: needs images: dataset=mnist, cifar10, or arrays"),
]


@pytest.mark.parametrize(("key", "expected"), BAD, ids=[key for key, _ in BAD])
def test_bad_input_is_refused_in_one_line(images, capsys, key, expected):
    """The key, the value, and what is allowed; exit code 2."""
    assert here("train", *RUN, key, "steps=1", "dir=run") == 2
    err = capsys.readouterr().err.strip()
    assert expected in err
    assert err.count("\n") == 0
    assert not Path("run").exists()


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_a_gpu_rounds_as_asked_for(precision: str) -> None:
    """Products and convolutions alike; the switches can be read where there is no GPU."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    with switches_kept():
        arrange(precision, torch.device("cuda"), 100)
        asked = "tf32" if precision == "tf32" else "ieee"
        assert matmul.fp32_precision == asked
        assert cudnn.conv.fp32_precision == asked
        assert cudnn.deterministic
