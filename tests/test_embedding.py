"""``init=embedding``: the labels, the limit that they give, and what is refused."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import curves, here
from torch import Tensor
from training import trained

from mfrun.config import validated
from mfrun.dynamics.evaluate import of_sets
from mfrun.dynamics.experiment import Experiment, assemble
from mfrun.dynamics.labels import effective_types, labels, limit_of, samples_of
from mfrun.networks.limit import discretised, limit
from mfrun.shell.compose import compose

TASK = ["threads=1", "dataset.d=6", "depth=4", "init=embedding", "init.m=2", "init.tau=2", "dtype=float64"]
FEW = ["particles.first=64", "particles.inner=32", "particles.last=32", "particles.nodes=4"]
SMALL = ["alpha=0.05", "batch=20", "evaluation.samples=300"]


def experiment(*words: str) -> Experiment:
    return assemble(validated(compose([*TASK, *SMALL, *words], [])))


# --- What is drawn.


@pytest.mark.parametrize("width", ["7", "inf"])
def test_without_labels_it_is_the_law_of_iid_entries(width: str) -> None:
    """The noise has the place of tau2 in the inner weights; the limit knows neither."""
    words = [f"width={width}", "init.tau2=0.3", "init.tau3=0.2", *FEW]
    ours = experiment("init.tau=0", "init.noise=0.3", *words).network().state()
    plain = [w for w in TASK if not w.startswith("init")]
    theirs = assemble(validated(compose([*plain, *SMALL, *words], []))).network().state()
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("g", "of"), [("identity", lambda z: z), ("tanh", np.tanh)])
def test_inner_weights_are_functions_of_labels(g: str, of) -> None:
    """Layer 1 from its weights; above it, W_l - mu2 is g of products of standard normal labels."""
    e = experiment("width=400", f"init.g={g}", "init.mu2=0.7", "init.directions=random")
    network = e.network()
    W1, W2, W3 = (W[0].numpy() for W in network.W[:3])
    V = e.blueprint.init._directions(6).numpy()
    np.testing.assert_allclose(V @ V.T, np.eye(2), atol=1e-6)
    below = W1 @ V.T * math.sqrt(6) / math.sqrt(2)
    assert below.std(0) == pytest.approx([1, 1], rel=0.15)
    if g == "identity":
        assert np.linalg.matrix_rank(W2 - 0.7, tol=1e-8) == 2
        # The labels of layer 2 that give these weights are standard normal, and so layer 3 sees them.
        above = np.linalg.lstsq(below, (W2 - 0.7).T, rcond=None)[0].T * math.sqrt(2) / 2
        np.testing.assert_allclose(above.std(0), [1, 1], rtol=0.15)
        top = np.linalg.lstsq(above, (W3 - 0.7).T, rcond=None)
        assert top[1].max() < 1e-12
    else:
        assert np.abs(W2 - 0.7).max() <= 2
        assert np.linalg.matrix_rank(np.arctanh((W2 - 0.7) / 2), tol=1e-6) == 2
    assert W2.mean() == pytest.approx(0.7, abs=0.1)


def test_principal_directions_are_those_of_the_training_set() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5)) @ np.diag([1, 5, 0.1, 3, 2]) @ np.linalg.qr(rng.normal(size=(5, 5)))[0] + 4
    np.savez("a.npz", x_train=x, y_train=rng.integers(0, 3, 300), x_test=x[:50], y_test=rng.integers(0, 3, 50))
    words = ["dataset=arrays", "dataset.path=a.npz", "loss=cross_entropy", "init.m=3"]
    keys = [w for w in TASK if not w.startswith("dataset")]
    e = assemble(validated(compose([*keys, *words, "width=9"], [])))
    found = e.blueprint.init._directions(5).numpy()
    expected = np.linalg.svd(x - x.mean(0))[2][:3]
    np.testing.assert_allclose(np.abs(found @ expected.T), np.eye(3), atol=1e-6)
    assert (found[np.arange(3), np.abs(found).argmax(1)] > 0).all()


def test_principal_directions_of_patches() -> None:
    """A filter sees patches, edges with zeros around them; by NumPy from their definition."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (60, 5, 6, 2), dtype=np.uint8)
    np.savez("i.npz", x_train=x, y_train=np.arange(60) % 3, x_test=x[:9], y_test=np.arange(9) % 3)
    words = ["dataset=arrays", "dataset.path=i.npz", "loss=cross_entropy", "init=embedding", "init.m=3", "threads=1"]
    layers = "architecture.layers=[{kernel: 3, stride: 2, padding: 1}]"
    e = assemble(validated(compose([*words, "architecture=cnn", layers, "depth=2", "width=9"], [])))
    (images,) = [x.numpy().reshape(60, 5, 6, 2) for x, _ in e.problem.evaluation(0, 60)["train"]]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = [
        padded[:, i : i + 3, j : j + 3].transpose(0, 3, 1, 2).reshape(60, -1) for i in (0, 2, 4) for j in (0, 2, 4)
    ]
    expected = np.linalg.eigh(np.cov(np.concatenate(patches).T, bias=True))[1].T[::-1][:3]
    found = e.blueprint.init._directions(18).numpy()
    np.testing.assert_allclose(np.abs(found @ expected.T), np.eye(3), atol=1e-4)
    assert e.network().W[0].shape == (1, 9, 2, 3, 3)


@pytest.mark.parametrize("width", ["8", "inf", "1e6"])
def test_output_weights_and_biases_tied_to_labels(width: str) -> None:
    """With mu2 = 0 and g = identity, W_L is a product of label arrays, and the tied ones lie in its column space."""
    words = [f"width={width}", "neurons=8", "init.tie=[beta,bias]", "init.tau3=0.5", "init.mu2=0", *FEW, "replicates=2"]
    words += ["init.directions=random", "particles.union=false"]
    network = experiment(*words).network()
    for s in range(len(network.W[0])):
        W1, W2, W3, beta = (W[s].numpy() for W in network.W)
        below = W1 @ experiment(*words).blueprint.init._directions(6).numpy().T * math.sqrt(6) / math.sqrt(2)
        np.testing.assert_allclose(network.b[0][s, :, 0].numpy(), 0.5 * below.sum(1) / math.sqrt(2), atol=1e-12)
        middle = np.linalg.lstsq(below, W2.T, rcond=None)[0].T / math.sqrt(2)
        np.testing.assert_allclose(network.b[1][s, :, 0].numpy(), 0.5 * middle.sum(1) / math.sqrt(2), atol=1e-9)
        top = np.linalg.lstsq(middle, W3.T, rcond=None)[0].T / math.sqrt(2)
        np.testing.assert_allclose(network.b[2][s, :, 0].numpy(), 0.5 * top.sum(1) / math.sqrt(2), atol=1e-9)
        np.testing.assert_allclose(beta[0], 0.1 * top[:, 0], atol=1e-9)
    free = experiment(*[w for w in words if "tie" not in w]).network()
    if width == "8":
        assert torch.equal(free.W[0], network.W[0])
    assert not torch.equal(free.W[-1], network.W[-1])


@pytest.mark.parametrize("width", ["8", "inf", "1e6"])
def test_output_weights_of_a_convolution_are_tied_by_their_output(width: str) -> None:
    """Output o has the number o mod m of the label at each pixel that is left, whatever their number."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (30, 5, 4, 1), dtype=np.uint8), np.arange(30) % 3
    np.savez("a.npz", x_train=x[:20], y_train=y[:20], x_test=x[20:], y_test=y[20:])
    words = ["architecture=cnn", "architecture.layers=[{kernel:3},{kernel:3}]", "depth=3", "init.tie=[beta]", *FEW]
    words += ["dataset=arrays", "dataset.path=a.npz", "loss=cross_entropy", f"width={width}", "neurons=8"]
    keys = [w for w in TASK if not w.startswith(("dataset", "depth"))]
    for part in assemble(validated(compose([*keys, *words], []))).network().parts:
        beta = part.W[-1][0]
        assert beta.shape[2:] == (5, 4)
        assert torch.equal(beta, beta[..., :1, :1].expand_as(beta))
        assert torch.equal(beta[0], beta[2])
        assert not torch.equal(beta[0], beta[1])


def test_directions_of_ones_own() -> None:
    np.save("v.npy", np.array([[3.0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0]]))
    e = experiment("width=5", "init.directions=v.npy")
    expected = np.array([[1.0, 0, 0, 0, 0, 0], [0, 0, 0.5**0.5, 0.5**0.5, 0, 0]])
    np.testing.assert_allclose(e.blueprint.init._directions(6), expected)


def test_a_function_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "own_embedding.py").write_text("def w(l, above, below):\n    return l * (above @ below.mT).cos()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    network = experiment("width=5", "init.g=own_embedding:w", "init.mu2=0").network()
    assert float(network.W[1].abs().max()) <= 2 * 2
    assert float(network.W[2].abs().max()) > 2 * 2
    (tmp_path / "own_embedding_2.py").write_text("def w(l, above, below):\n    return above.sum()\n")
    assert here("train", *TASK, *SMALL, "width=5", "steps=1", "init.g=own_embedding_2:w", "dir=r") == 2


AS_IDENTITY = """
def w(l, above, below):
    assert bool(above.isfinite().all())
    return above @ below.mT / above.shape[-1] ** 0.5
"""


@pytest.mark.parametrize("width", [["width=5"], ["width=inf"], ["width=1e6", "neurons=6"]])
def test_a_function_of_ones_own_trains_as_the_program_s(
    width: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The identity, written anew and looking at numbers, at every kind of width."""
    (tmp_path / "as_identity.py").write_text(AS_IDENTITY)
    monkeypatch.syspath_prepend(tmp_path)
    for g, folder in (("identity", "a"), ("as_identity:w", "b")):
        assert here("train", *TASK, *SMALL, *width, "steps=10", f"init.g={g}", f"dir={folder}") == 0
    assert curves("a") == curves("b")


OWN = """
import torch
def w(l, above, below): return above @ below.mT
def few(l): return l
def fails(l, above, below): return above @ below
def nan(l, above, below): return above @ below.mT * float("nan")
def numbers(l, above, below): return (above @ below.mT).numpy()
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("few", "fails (TypeError: few() takes 1 positional argument but 3 were given)"),
        ("fails", "fails (RuntimeError: "),
        ("nan", "returns numbers that are not finite"),
        ("numbers", "must return a torch tensor ("),
    ],
)
@pytest.mark.parametrize("width", ["5", "inf"])
def test_a_function_that_fails_is_named(
    width: str,
    name: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "wrong_embedding.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    assert here("train", *TASK, *SMALL, f"width={width}", "steps=1", f"init.g=wrong_embedding:{name}", "dir=r") == 2
    err = capsys.readouterr().err
    assert f"init.g=wrong_embedding:{name}: {said}" in err
    assert "Traceback" not in err


def test_a_function_that_only_the_folder_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is imported where it is typed again beside ``resume=true``, or named by MFRUN_IMPORT."""
    (tmp_path / "wrong_embedding.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    g = "init.g=wrong_embedding:w"
    assert here("train", *TASK, *SMALL, "width=5", "steps=1", g, "dir=r") == 0
    assert here("train", "dir=r", "resume=true", "steps=2") == 2
    told = "set MFRUN_IMPORT=wrong_embedding:w, or type the key again as you resume"
    assert told in capsys.readouterr().err
    assert here("train", "dir=r", "resume=true", "steps=2", g) == 0
    assert here("statics", "r") == 2
    monkeypatch.setenv("MFRUN_IMPORT", "wrong_embedding:w")
    assert here("statics", "r", "--widths", "2,4", "--draws", "2") == 0


# --- The limit.


def test_the_limit_against_autograd() -> None:
    """Two-point laws have finitely many types, so that the limit is exact: SGD by autograd over all of them."""
    words = ["init.law=rademacher", "dataset.d=3", "depth=4", "init.m=1", "init.directions=random", "init.tau2=0.4"]
    e = experiment("width=inf", *words, "particles.sets=2", "particles.union=false", "init.tau3=0.3")
    network = e.network()
    # Types: (w, bias), (label, bias), (label, bias, beta): 16, 4 and 8.
    assert network.widths == [16, 4, 8]
    signs = [torch.tensor(list(itertools.product((-1.0, 1.0), repeat=k))).double() for k in (4, 2, 3)]
    V = e.blueprint.init._directions(3)
    labels = [signs[0][:, :3] @ V.T, signs[1][:, :1], signs[2][:, :1]]
    mu2, tau = 1.0, 2.0
    W = [
        signs[0][:, :3] * math.sqrt(2 / 3),
        mu2 + tau * labels[1] @ labels[0].T,
        mu2 + tau * labels[2] @ labels[1].T,
        mu2 + 0.4 * signs[2][:, 2:].T,
    ]
    b = [0.3 * signs[0][:, 3], 0.3 * signs[1][:, 1], 0.3 * signs[2][:, 1], torch.zeros(1).double()]
    W, b = [[a.clone().requires_grad_() for a in arrays] for arrays in (W, b)]
    p = [1 / 16, 1 / 4, 1 / 8]
    stream = e.stream()
    steps = e.steps(network, stream)

    def outputs(x: Tensor) -> Tensor:
        a = torch.relu(W[0] @ x.T + b[0][:, None])
        for l in (1, 2):
            a = torch.relu(W[l] @ a * p[l - 1] + b[l][:, None])
        return W[3] @ a * p[2] + b[3]

    for k in range(30):
        x, y = stream.batch(k)
        (outputs(x) - y).square().mean().backward()
        # A type's gradient is its probability times what a single neuron of it would feel.
        scale = [1.0, *p, 1.0]
        with torch.no_grad():
            for l in range(4):
                W[l] -= e.cfg.alpha * W[l].grad / (scale[l + 1] * scale[l])
                b[l] -= e.cfg.alpha * b[l].grad / scale[l + 1]
                W[l].grad = b[l].grad = None
    k = 0
    while k < 30:
        k = steps.advance(k, 30)
    (samples,) = e.problem.evaluation(0, 50).values()
    for x, _ in samples:
        found = network.forward(x, network.workspace(len(x), backward=False)).view(network.replicates, 1, -1)
        for s in range(network.replicates):
            torch.testing.assert_close(found[s], outputs(x).detach(), rtol=1e-9, atol=1e-9)


def test_a_neuron_and_its_copy() -> None:
    """Types that are there twice with half the weight: the same network, at every step."""
    e = experiment("width=inf", *FEW, "particles.sets=2", "particles.union=false", "init.m=3")
    layers = e.architecture.layers_of(e.blueprint)
    types = discretised(e.blueprint, layers)
    for t in types:
        t.nodes[1] = t.nodes[0]
    networks = [
        e.architecture.network(limit(e.blueprint, layers, chosen), e.blueprint)
        for chosen in (types, [t.together(2) for t in types])
    ]
    assert networks[1].widths == [2 * n for n in networks[0].widths]
    losses = []
    for network in networks:
        steps, k = e.steps(network, e.stream()), 0
        while k < 40:
            k = steps.advance(k, 40)
        losses.append(e.evaluator()(network)["population_loss"])
    assert losses[0] == pytest.approx(losses[1] * 2, rel=1e-10)


def test_finite_networks_fall_onto_the_limit() -> None:
    """The gap of one network falls like n^-1/2 and that of the mean like 1/n, at the start and in training."""
    marks = [0, 30]
    wide = ["particles.first=2048", "particles.inner=1024", "particles.last=1024"]
    exact, bar = of_sets(trained(experiment("width=inf", *wide), marks).T, 8, union=True)
    assert bar is not None
    of_one, of_mean = {}, {}
    for n in (20, 320):
        values = trained(experiment(f"width={n}", "replicates=48"), marks).T - exact
        of_one[n], of_mean[n] = values.square().mean(0).sqrt(), (values.mean(0), values.std(0) / math.sqrt(48))
    assert (of_one[20] / of_one[320] > 2.6).all(), of_one
    mean, error = of_mean[320]
    assert (mean.abs() < 3 * error + bar[0] + 0.1 * of_mean[20][0].abs()).all(), (of_mean, bar)
    # The layers have not collapsed: without the labels it is another limit.
    other = trained(experiment("width=inf", "init.tau=0", *FEW), marks).T[0]
    assert abs(float(other[1] - exact[0, 1])) > 3 * float(bar[0, 1])


def test_stand_ins_need_the_measure_alone() -> None:
    """n = 96 by 48 neurons, without mirrored copies as there is no noise: mean and deviation over 24 starts."""
    marks, S = [0, 30], 24
    real = trained(experiment("width=96", f"replicates={S}"), marks).T
    some = experiment("width=96", "neurons=48", "stand_in.first=256", f"replicates={S}")
    network = some.network()
    assert [W.shape[1] for W in network.W[:-1]] == [256, 48, 48]
    assert len(torch.unique(network.W[1][0].round(decimals=9), dim=0)) == 48
    stood = trained(some, marks).T
    error = ((real.var(0) + stood.var(0)) / S).sqrt()
    assert ((real.mean(0) - stood.mean(0)).abs() / error).max() < 3.5
    assert (real.std(0).log() - stood.std(0).log()).abs().max() < 3.5 * math.sqrt(1 / S)


# --- As a user has it.


@pytest.mark.parametrize("width", ["width=5", "width=inf", "width=1e6"])
def test_a_run_goes_on(width: str) -> None:
    words = [*TASK, *SMALL, *FEW, width, "neurons=8", "init.noise=0.1", "init.tau3=0.1"]
    assert here("train", *words, "steps=20", "dir=r") == 0
    assert here("train", "dir=r", "resume=true", "steps=30") == 0
    assert here("train", *words, "steps=30", "dir=whole") == 0
    assert curves("r") == curves("whole")


@pytest.mark.parametrize("width", ["width=5", "width=inf"])
def test_two_layers_have_no_weights_between_neurons(width: str) -> None:
    words = ["threads=1", "dataset.d=6", "depth=2", "init.tau2=0.7", *SMALL, *FEW, width, "steps=20"]
    assert here("train", *words, "init=normal", "dir=normal") == 0
    assert here("train", *words, "init=embedding", "init.m=2", "dir=labels") == 0
    assert curves("normal") == curves("labels")


def test_a_sweep_and_what_reads_it() -> None:
    words = [w for w in [*TASK, *SMALL, *FEW] if not w.startswith("depth")]
    assert here("sweep", *words, "depth=3", "widths=[5,10,inf]", "steps=20", "replicates=2", "dir=s") == 0
    for command in (["plot", "s"], ["compare", "s"], ["plot", "s", "--weights"], ["ensemble", "s"], ["report", "s"]):
        assert here(*command) == 0
    assert here("statics", "s/width=inf") == 0
    assert here("sweep", *words, "depth=3", "widths=[5,inf]", "steps=20", "--dry-run") == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["init.m=0"], "init.m=0: must be at least 1"),
        (["init.m=7"], "init.m=7: labels of more numbers than the 6 weights of a neuron"),
        (["init.m=7", "init.directions=random"], "init.m=7: labels of more numbers than the 6 weights of a neuron"),
        (["init.tie=[theta]"], "init.tie=[theta]: lists beta and bias, or nothing"),
        (["init.g=cosine"], "init.g=cosine: one of identity, erf, tanh, or your own package.module:function"),
        (["init.tau1=0"], "init.tau1=0.0: labels of layer 1 are projections of w"),
        (["init.noise=-1"], "init.noise=-1.0: a standard deviation is a finite number >= 0"),
        (["init.directions=no.npy"], "init.directions=no.npy: one of principal, random, or a file .npy"),
        (["scaling=ntk", "init.mu2=0"], "init=embedding: its weights have means; with scaling=ntk"),
    ],
)
def test_bad_input(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert here("train", *TASK, "width=5", "steps=1", "dir=r", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"mfrun: {said}"), error
    assert len(error.splitlines()) == 1


# --- How far the neurons of a layer differ.


def test_the_effective_number_of_types() -> None:
    """By hand from the eigenvalues; 1 for every inner layer of the i.i.d. limit, more with labels."""
    e = experiment("width=7", "replicates=2")
    network, x = e.network(), samples_of(e)
    ws = network.workspace(len(x), backward=True)
    network.forward(x, ws)
    for l, found in enumerate(effective_types(network, x)):
        ratios = []
        for a in ws.a[l].numpy():
            eigenvalues = np.linalg.svd(a / math.sqrt(7), compute_uv=False) ** 2
            ratios.append(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())
        assert found == pytest.approx(np.mean(ratios), rel=1e-9)
    of_limit = effective_types(limit_of(e), x)
    assert all(v > 1.05 for v in of_limit)
    iid = effective_types(limit_of(experiment("width=7", "init.tau=0")), x)
    assert iid[0] > 2
    assert iid[1:] == pytest.approx([1, 1], abs=1e-12)


def test_signal_and_noise_are_what_networks_show() -> None:
    """Over many networks, the variance of h_2 over its neurons is signal^2 + noise^2 / n."""
    words = ["init.tau=3", "init.tau3=0", "init.noise=0.5", "replicates=400"]
    e = experiment("width=20", *words)
    found = {one.layer: one for one in labels(e, limit_of(e))}
    assert set(found) == {2, 3}
    network, x = e.network(), samples_of(e)
    ws = network.workspace(len(x), backward=True)
    network.forward(x, ws)
    expected = found[2].signal ** 2 + found[2].noise ** 2 / 20
    assert float(ws.h[1].var(1).mean()) == pytest.approx(expected, rel=0.1)
    assert found[2].needed() == pytest.approx((found[2].noise / found[2].signal) ** 2)
    iid = experiment("width=20", "init.tau=0")
    assert labels(iid, limit_of(iid)) == []


def test_a_width_below_the_noise_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TASK, *SMALL, "steps=1"]
    assert here("train", *words, "width=3", "dir=narrow") == 0
    assert "mfrun: warning: width=3: its labels make the neurons of layer" in capsys.readouterr().err
    assert here("train", *words, "width=3000", "depth=3", "dir=wide") == 0
    assert "warning" not in capsys.readouterr().err


def test_check_says_what_has_collapsed(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["widths=[8,16,32]", "steps=1", "replicates=2", "threads=1", "dataset.d=6", "depth=4"]
    here("check", *few, "dir=a")
    said = capsys.readouterr().out
    assert said.count("collapsed") == 2
    assert "labels:" not in said
    here("check", *few, "init=embedding", "init.m=2", "dir=b")
    said = capsys.readouterr().out
    assert "collapsed" not in said
    assert "weaker below" in said
    assert list(pd.read_csv("b/check_types.csv")) == ["layer", "8", "16", "32", "inf"]
