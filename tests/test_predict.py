"""The law of finite networks from perturbed limits, held to what is known of it and to real networks."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import LIMIT, TINY, here, mfrun, rows, status
from formats import write_arrays
from hypothesis import given
from hypothesis import strategies as st

from mfrun.config import validated
from mfrun.dynamics.experiment import Experiment, assemble
from mfrun.networks.architecture import Perturbations
from mfrun.shell import options
from mfrun.shell.compose import compose
from mfrun.study import plot
from mfrun.study.prediction import Group, Growth, Law, _until, growth_of, horizon, read

SMALL = ["threads=1", "dtype=float64", "evaluation.samples=500", "evaluation.points_per_decade=5"]
GROUP = ["predict.first=128", "predict.last=32", "predict.inner=8", "predict.pairs=8", "predict.tested=1"]


def experiment(*words: str) -> Experiment:
    return assemble(validated(compose([*SMALL, *words], [])))


def predicted(folder: str, *words: str) -> Law:
    """That of the population loss."""
    assert here("predict", *SMALL, *words, f"dir={folder}", "--metrics", "population_loss") == 0
    return read(Path(folder)).laws[0]


def close(value: float, error: float, truth: float, part: float = 0.0) -> bool:
    """Within four standard errors, and the part of it that the discretisation may add."""
    return abs(value - truth) < 4 * error + part * abs(truth)


# --- Known answers.


def test_two_layers_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """yhat is an average of n i.i.d. beta sigma(w x): c is the variance of one of them, s that of its projection."""
    monkeypatch.chdir(tmp_path)
    words = ["depth=2", "dataset.d=3", "steps=0", "init.tau2=0.5", "activation=tanh"]
    law = predicted("p", *words, *GROUP)
    e = experiment("width=inf", *words)
    x, y = (
        torch.cat(parts, -1 if i else 0) for i, parts in enumerate(zip(*e.evaluator().sets["population"], strict=True))
    )
    z = torch.randn(200_000, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    one = (1 + 0.5 * z[:, 3:]) * torch.tanh(z[:, :3] * math.sqrt(2 / 3) @ x.T)  # (neurons, samples)
    row = law.frame.loc[0]
    assert close(row["c"], row["c_se"], float(one.var(0).mean()), 0.02)
    projection = (2 * (one.mean(0) - y[0]) * one).mean(1)
    assert close(row["s"], row["s_se"], float(projection.std()), 0.02)
    # All of the gap is variance: none of it is left in an average over many networks.
    assert abs(row["common"]) < 4 * row["common_se"] + 1e-3


def test_linear_networks_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sigma(h) = h: the moments of (w, beta) move by themselves, so that any number of starts of any width is exact."""
    monkeypatch.chdir(tmp_path)
    d, steps, n, starts = 3, 40, 2000, 20_000
    words = ["depth=2", f"dataset.d={d}", f"steps={steps}", "alpha=0.03", "activation=linear"]
    words += ["architecture.biases=false", "init.tau2=0.5", "dataset=teacher", "dataset.noise=0.3"]
    words += ["dataset.depth=2", "dataset.width=3", "dataset.activation.name=linear"]
    law = predicted("p", *words, *GROUP)
    e = experiment("width=inf", *words)
    X, Y = (
        torch.cat(parts, -1 if i else 0) for i, parts in enumerate(zip(*e.evaluator().sets["population"], strict=True))
    )
    rng = np.random.default_rng(0)
    mean = np.array([*[0.0] * d, 1.0])
    scale = np.array([*[math.sqrt(2 / d)] * d, 0.5])
    # Second moments of n draws of (w, beta): those of the sample's mean and of its Wishart-distributed scatter.
    lower = np.tril(rng.standard_normal((starts, d + 1, d + 1)), -1)
    diagonal = np.sqrt(rng.chisquare(n - 1 - np.arange(d + 1), (starts, d + 1)))
    lower[:, np.arange(d + 1), np.arange(d + 1)] = diagonal
    centre = rng.standard_normal((starts, d + 1)) / math.sqrt(n)
    moments = lower @ lower.transpose(0, 2, 1) / n + centre[:, :, None] * centre[:, None, :]
    offset = mean + scale * centre
    M = moments * scale[:, None] * scale - (scale * centre)[:, :, None] * (scale * centre)[:, None, :]
    M = M + offset[:, :, None] * offset[:, None, :]
    limit = (np.diag(scale**2) + np.outer(mean, mean))[None]
    stream, evaluated = e.stream(), law.frame.index.tolist()
    checked = 0
    for k in range(steps + 1):
        if k in evaluated and k > 0:
            loss, at_limit = (quadratic(m[:, d, :d], X.numpy(), Y[0].numpy()) for m in (M, limit))
            row = law.frame.loc[k]
            c, c_error = n * float(loss.mean() - at_limit[0]), n * loss.std() / math.sqrt(starts)
            assert close(row["c"], math.hypot(row["c_se"], c_error), c, 0.03)
            assert close(row["s"], row["s_se"], math.sqrt(n) * float(loss.std()), 0.03)
            assert row["limit"] == pytest.approx(at_limit[0], rel=2e-3)
            checked += 1
        x, y = (array.numpy() for array in stream.batch(k))
        M, limit = (moved(m, x, y[0], 0.03) for m in (M, limit))
    assert checked > 5


def quadratic(a: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mean of (y - a x)^2 for each row of a."""
    A, b = x.T @ x / len(x), x.T @ y / len(x)
    return np.einsum("si,ij,sj->s", a, A, a) - 2 * a @ b + (y**2).mean()


def moved(M: np.ndarray, x: np.ndarray, y: np.ndarray, alpha: float) -> np.ndarray:
    """One step of (w, beta) -> (w - alpha beta g, beta - alpha w g) for the moments, g the mean of 2 (yhat - y) x."""
    d = x.shape[1]
    g = 2 * (M[:, d, :d] @ (x.T @ x) - x.T @ y) / len(x)
    A = np.tile(np.eye(d + 1), (len(M), 1, 1))
    A[:, :d, d] = A[:, d, :d] = -alpha * g
    return A @ M @ A.transpose(0, 2, 1)


def test_real_networks_with_much_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three layers, tau2 = 2: the noise of inner weights is a good part of c."""
    monkeypatch.chdir(tmp_path)
    words = ["depth=3", "dataset.d=2", "steps=20", "alpha=0.03", "activation=tanh", "init.tau2=2", "init.tau3=0.5"]
    law = predicted("p", *words, *GROUP)
    n, S = 120, 400
    e = experiment(*words, f"width={n}", f"replicates={S}")
    network, evaluator = e.network(), e.evaluator()
    steps, k = e.steps(network, e.stream()), 0
    for mark in (0, 20):
        while k < mark:
            k = steps.advance(k, mark)
        loss = np.array(evaluator(network)["population_loss"])
        row = law.frame.loc[mark]
        error = math.hypot(row["c_se"], n * loss.std() / math.sqrt(S), n * row["limit_bar"] / 2)
        assert close(row["c"], error, n * (loss.mean() - row["limit"]), 0.05)
        assert close(row["s"], row["s_se"] + math.sqrt(n / 2 / S) * loss.std(), math.sqrt(n) * loss.std(), 0.05)


# --- What is measured.


def test_an_evaluator_measures_the_network_that_it_is_given() -> None:
    """Whatever it has measured before: a workspace is bound to one network's arrays."""
    e = experiment("depth=4", "dataset.d=3", "width=7", *GROUP)
    drawn, trained, evaluator = e.network(), e.network(), e.evaluator()
    e.steps(trained, e.stream()).advance(0, 50)
    each = [evaluator(network) for network in (trained, drawn, trained)]
    assert each == [e.evaluator()(network) for network in (trained, drawn, trained)]
    assert each[0] == each[2] != each[1]


def test_a_prediction_goes_on_where_its_data_have_moved(capfd: pytest.CaptureFixture[str]) -> None:
    """A key that makes sense beside the saved ones alone, as a path does, is taken with them."""
    write_arrays(Path("a.npz"))
    few = ["predict.groups=2", "predict.pairs=2", "predict.first=32", "predict.last=16", *LIMIT]
    words = [
        "dataset=arrays",
        "dataset.path=a.npz",
        "loss=cross_entropy",
        "depth=3",
        "batch=6",
        "steps=20",
        "threads=1",
    ]
    assert here("predict", *words, *few, "dir=p", "--metrics", "train_loss") == 0
    Path("a.npz").rename("b.npz")
    assert here("predict", "dir=p", "resume=true", "steps=40", "dataset.path=b.npz", "--metrics", "train_loss") == 0
    assert {status(str(run))["step"] for run in Path("p").glob("width=*")} == {40}
    x = dict(np.load("b.npz"))
    np.savez("c.npz", **{**x, "x_train": x["x_train"][::-1]})
    capfd.readouterr()
    assert here("predict", "dir=p", "resume=true", "steps=60", "dataset.path=c.npz") == 2
    assert "dataset.path=c.npz: not the data that the run was started on: train_loss" in capfd.readouterr().err


@pytest.mark.parametrize("alpha", ["50", "1000"])
def test_what_diverges_is_not_predicted(alpha: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Up to there the table is what it is; behind it nothing stands."""
    words = ["depth=3", "dataset.d=2", "steps=50", f"alpha={alpha}", "dir=p", "predict.groups=2", *GROUP]
    assert here("predict", *SMALL, *words) == 3
    said = capsys.readouterr().out
    lost = int(re.search(r"diverged: a limit has no loss to speak of at step (\d+);", said)[1])
    assert "nan" not in said
    frame = pd.read_csv("p/predict.csv")
    assert np.isfinite(frame[["limit", "c", "s"]]).all(axis=None)
    assert 0 < frame["step"].max() < lost <= 50


# --- What is drawn.


def test_perturbations_are_mirrored_and_of_one_limit() -> None:
    e = experiment("depth=4", "dataset.d=3", "width=inf", "perturbed=2", "init.tau2=1", *GROUP)
    network, keys = e.network(), e.blueprint.predict
    assert network.replicates == len(keys.members) == 1 + 2 * 8 + 2 * 1
    # Types are common to all, and so is W_1.
    assert all(torch.equal(network.W[0][0], w) for w in network.W[0])
    for p, typed in zip(network.p[1:-1], (True, False, True), strict=True):
        assert (p.weights is not None) == typed
        if p.weights is None:
            continue
        w = p.weights[..., 0]
        assert torch.allclose(w.sum(1), torch.ones(len(w), dtype=w.dtype))
        moved = w - w[:1]
        assert torch.allclose(moved[1::2][:8], -moved[2::2][:8])
        assert torch.allclose(moved[17], 2 * moved[1])
        assert float(moved[1].abs().max()) > 0
    # Copies of one unperturbed neuron agree in everything; those of a pair see noise of the same size.
    noise = network.W[1] - 1
    assert not noise[0].any()
    assert torch.allclose(noise[1::2][:8], -noise[2::2][:8])


def test_fluctuations_have_the_covariance_of_n_draws() -> None:
    """K = 4 points: n (c_i / n - 1/K)(c_j / n - 1/K) has the mean 1/K (i = j) - 1/K^2."""
    keys = ["predict.first=8", "predict.last=8", "predict.pairs=2000", "predict.tested=0", "predict.width=100"]
    network = experiment("depth=2", "dataset.d=2", "width=inf", "perturbed=1", *keys).network()
    weights = network.p[1].weights
    assert weights is not None
    G = 10 * (weights[1::2, :4, 0] - 1 / 4)
    assert torch.allclose(G.T @ G / len(G), torch.eye(4, dtype=G.dtype) / 4 - 1 / 16, atol=0.03)


@given(st.integers(1, 6), st.integers(0, 6))
def test_partners_are_each_other_s(pairs: int, tested: int) -> None:
    keys = Perturbations(pairs=pairs, tested=min(tested, pairs))
    partners = keys.partners
    assert partners[0] == 0
    assert all(partners[partners[i]] == i for i in range(len(keys.members)))
    assert all((partners[i] != i) == (i > 0) for i in range(len(keys.members)))


# --- What is made of it.


def law(c: list[float], s: list[float], common: float = 0.0, q: float = 0.0) -> Law:
    t = [0.0, 1.0, 2.0]
    columns = {"t": t, "limit": 1.0, "limit_bar": 0.0, "c": c, "common": common, "s": s, "q": q, "linear": True}
    return Law("loss", pd.DataFrame(columns | {f"{k}_se": 0.0 for k in ("c", "common", "s", "q")}), 0.01)


@given(c=st.floats(-50, 50), s=st.floats(0.01, 10), accuracy=st.floats(1e-4, 0.5), k=st.integers(1, 20))
def test_the_width_for_an_accuracy_has_it(c: float, s: float, accuracy: float, k: int) -> None:
    one = law([0, 0, c], [0, 0, s], common=c / 2, q=2 * s)
    n = one.width_for(accuracy, 2, k)
    assert math.hypot(one.gap(n, k)[2], one.deviation(n, k)[2]) == pytest.approx(accuracy, rel=1e-6)


def test_horizons_follow_the_growth() -> None:
    """c ~ exp(2 lambda t): beyond the run the horizon grows by ln(n) / (2 lambda)."""
    grown = law([1, math.exp(2), math.exp(4)], [0, 0, 0])
    assert horizon(grown, 2, 3.0) == (1.0, False)
    t, continued = horizon(grown, 1e6, 0.1, Growth(1.0, begin=1.0)) or (0, False)
    assert continued
    assert t == pytest.approx(math.log(1e5) / 2)
    assert horizon(grown, 1e6, 0.1) is None
    # Where nothing was linear, nothing is continued.
    never = Law("loss", grown.frame.assign(linear=False), 0.01)
    assert horizon(never, 1e6, 0.1, Growth(1.0, begin=1.0)) is None
    # Nor where c was last seen before the growth began, or is below its own error.
    assert horizon(grown, 1e6, 0.1, Growth(1.0, begin=3.0)) is None
    unsure = Law("loss", grown.frame.assign(c_se=grown.frame["c"]), 0.01)
    assert horizon(unsure, 2, 3.0, Growth(1.0, begin=1.0)) is None


def test_a_growth_is_seen_where_neurons_part_in_proportion() -> None:
    """It saturates at size 1: what comes after is no response to the start. Losses have no part in it."""
    eps, rate = 1e-4, 0.5
    steps = pd.Index(range(0, 41, 2), name="step")
    times = pd.Series(steps.to_numpy(float), index=steps)

    def group(wobble: float) -> Group:
        sizes = eps * np.array([0, 1, 1, 2, 2])[:, None] * np.exp((rate + wobble) * steps.to_numpy())
        index = pd.MultiIndex.from_product([steps, range(5)], names=["step", "replicate"])
        return Group(pd.DataFrame({"spread_2": np.minimum(sizes, 1.0).T.ravel()}, index=index), pairs=1, tested=1)

    found = growth_of([group(0.01), group(-0.01), group(0.0)], steps, times, 2)
    assert found.rate == pytest.approx(rate, abs=0.02)
    assert found.low < rate < found.high
    assert found.end == pytest.approx(math.log(1 / eps) / rate, abs=3)
    flat = growth_of([group(-rate), group(-rate)], steps, times, 2)
    assert math.isnan(flat.rate)


# --- The command.

FEW = ["predict.groups=2", "predict.pairs=2", "predict.tested=1", "predict.first=8", "predict.last=4"]
KEYS = [*[w for w in TINY if not w.startswith("width")], *FEW, "predict.inner=4", "steps=20"]
LOSS = ["--metrics", "population_loss"]


def test_a_prediction_goes_on_and_is_read_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert here("predict", *KEYS, "dir=p", "--accuracy", "0.01", "widths=[100,1e6]") == 0
    out = capsys.readouterr().out
    assert "from 4 mirrored pairs in 2 groups" in out
    assert "1e6" in out
    assert "to be within 0.01 of the limit at step 20" in out
    for file in ("predict.csv", "predict.png"):
        assert Path("p", file).stat().st_size > 0
    frame = pd.read_csv("p/predict.csv")
    assert {"population_loss", "population_error", "nonpositive_1"} <= set(frame["metric"])
    first = rows("p/width=inf,perturbed=1")
    assert len({row["replicate"] for row in first}) == 1 + 2 * 2 + 2 * 1
    # Longer, and by one group more; the groups that are there go on.
    code, out, err = mfrun("predict", "dir=p", "resume=true", "steps=40", "predict.groups=3", *LOSS)
    assert code == 0, err
    assert "from 6 mirrored pairs in 3 groups" in out
    assert status("p/width=inf,perturbed=1")["step"] == 40
    assert rows("p/width=inf,perturbed=1")[: len(first) - 7] == first[:-7]
    assert here("predict", "p", "widths=[200]", *LOSS, "--format", "svg") == 0
    # A metric that moves in jumps is read as well.
    assert here("predict", "p", "widths=[200]", "--metrics", "population_error") == 0
    assert Path("p/predict.svg").exists()


def test_a_folder_of_ones_own_files_is_no_prediction_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine/schedule").mkdir(parents=True)
    Path("mine/schedule/slow.yaml").write_text("name: power\np: 0.5\nwarmup: 0.0\nmultipliers: []\n")
    assert here("predict", "--config-dir", "mine", "schedule=slow", *KEYS, "steps=3", "dir=p", *LOSS) == 0
    assert "p: 0.5" in Path("p/width=inf,perturbed=0/config.yaml").read_text()


def test_perturbed_limits_are_no_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """plot and compare take the limit of a prediction's folder, and nothing else."""
    monkeypatch.chdir(tmp_path)
    assert here("predict", *KEYS, "dir=p", *LOSS) == 0
    assert here("train", *KEYS, "width=4", "dir=real") == 0
    capsys.readouterr()
    # Nor is a network beside a prediction its limit; and two predictions are not one.
    pd.testing.assert_frame_equal(read(Path()).laws[0].frame, read(Path("p")).laws[0].frame)
    shutil.copytree("p", "q")
    assert here("predict", ".") == 2
    assert capsys.readouterr().err.startswith("mfrun: .: holds more than one prediction")
    shutil.rmtree("q/width=inf,perturbed=0")
    edit = Path("q/width=inf,perturbed=1/config.yaml")
    edit.write_text(edit.read_text().replace("tau2: 0.1", "tau2: 0.2"))
    assert here("predict", ".") == 2
    shutil.rmtree("q")
    assert here("compare", "p", "real", "--out", "c", "--metrics", "population_loss") == 0
    assert "gap to the limit" in capsys.readouterr().out
    assert here("plot", "p", "--out", "p.png") == 0


def test_compare_lays_networks_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    words = [w for w in KEYS if not w.startswith("predict.first")]
    assert here("predict", *words, "predict.first=64", "dir=p", *LOSS) == 0
    assert here("sweep", *words, "widths=[8,64]", "replicates=8", "dir=real") == 0
    capsys.readouterr()
    assert here("compare", "p", "real", "--out", "c", "--metrics", "population_loss", "--predict", "p") == 0
    out = capsys.readouterr().out
    assert "population_loss beside the prediction of p (4 mirrored pairs)" in out
    table = pd.read_csv("c/compare_predicted.csv")
    assert sorted(table["width"].unique()) == [8, 64]
    law_of = read(Path("p"), ["population_loss"]).laws[0]
    # Two edges for each width in the panel of the loss, and none in that of the error.
    mean, half = law_of.band(8)
    args = options.plot().parse_args(["real", "--predict", "p", "--metrics", "population_loss,population_error"])
    loss, error = plot.draw(args)[0].axes
    edges = [line for line in loss.lines if line.get_linewidth() < 1]
    assert (len(edges), len(loss.lines), len(error.lines)) == (4, 6, 2)
    k = np.asarray(edges[0].get_xdata(), int)
    np.testing.assert_allclose(edges[0].get_ydata(), (mean - half).loc[k])
    np.testing.assert_allclose(edges[1].get_ydata(), (mean + half).loc[k])
    at_end = table[table["step"] == 20].set_index("width")
    assert at_end["predicted_gap"][8] == pytest.approx(8 * at_end["predicted_gap"][64])
    s2, q2 = (float(column.loc[20]) ** 2 for column in (law_of.frame["s"], law_of.frame["q"]))
    assert at_end["predicted_deviation"][64] ** 2 == pytest.approx(s2 / 64 + q2 / 64**2)
    assert here("sweep", *words, "widths=[8,inf]", "init.tau2=0.5", "dir=another", "particles.first=64") == 0
    assert here("plot", "another", "--predict", "p") == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("mfrun: --predict p: is of init.tau2=0.1, and these")
    assert here("plot", "another", "--widths", "inf", "--predict", "p") == 2
    assert capsys.readouterr().err.splitlines()[-1] == "mfrun: --predict p: no finite width is drawn"
    assert here("compare", "another", "--predict", "p") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("mfrun: --predict p: is of init.tau2=0.1, and these networks of init.tau2=0.5")
    # Gaps depend on the samples as little as on the start; a limit's curve is about its own.
    for key in ("seed.data", "seed.eval"):
        assert here("sweep", *words, "widths=[8,inf]", f"{key}=1", f"dir={key}", "replicates=2") == 0
        assert here("plot", key, "--predict", "p") == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said == f"mfrun: --predict p: is of {key}=0, and these networks of {key}=1"
        assert here("compare", key, "--predict", "p") == 0
    # Of several settings those that it is about are laid beside it; what stands for a width is a row of its own.
    assert here("sweep", *words, "widths=[64]", "neurons=16", "replicates=2", "dir=stood") == 0
    capsys.readouterr()
    argv = ["compare", "p", "real", "another", "stood", "--out", "d", "--metrics", "population_loss", "--predict", "p"]
    assert here(*argv) == 0
    out, err = capsys.readouterr()
    assert "left out: population_loss [tau2=0.5" in err
    assert "horizon t of n = 64 by 16" in out or " 64 by 16 " in out
    table = pd.read_csv("d/compare_predicted.csv")
    assert table.groupby(["width", "neurons"], dropna=False).ngroups == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--accuracy", "x"], "--accuracy x: a number > 0"),
        (["--accuracy", "0%"], "--accuracy 0%: a number > 0"),
        (["--networks", "0"], "--networks 0: must be at least 1"),
        (["--tolerance", "-1"], "--tolerance -1.0: must be a number > 0"),
        (["width=100"], "width=100: is the prediction's own"),
        (["perturbed=3"], "perturbed=3: is the prediction's own"),
        (["widths=[100,inf]"], "widths=[100,inf]: finite widths"),
        (["init.tau2=0.1,3"], "init.tau2=0.1,3: several values"),
        (["predict.groups=1"], "predict.groups=1: must be at least 2"),
        (["predict.pairs=0"], "predict.pairs=0: must be at least 1"),
        (["predict.tested=9"], "predict.tested=9: must be from 0 to pairs"),
        (["predict.first=7"], "predict.first=7: must be an even number"),
        (["replicate_data=independent"], "replicate_data=independent: perturbed limits are told apart"),
        (["operation=of_product"], "operation=of_product: is not predicted"),
        (["--metrics", "nothing"], "--metrics nothing: not logged; there are population_loss"),
        (["p.nothing"], "p.nothing"),
    ],
)
def test_bad_input(words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert here("predict", *KEYS, "steps=1", *words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"mfrun: {said}"), error


def test_a_folder_without_a_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert here("train", *KEYS, "width=4", "dir=real") == 0
    capsys.readouterr()
    assert here("predict", "real") == 2
    assert "real: no prediction here" in capsys.readouterr().err
    assert here("predict", "real", "depth=4") == 2
    assert "is read as it is" in capsys.readouterr().err


def test_one_alarm_among_many_is_no_end() -> None:
    """Two in a row are, and what comes after them does not count; the last evaluation has none to confirm it."""
    alarms = np.array([0, 1, 0, 0, 1, 1, 0, 0], dtype=bool)
    assert _until(alarms).tolist() == [True] * 4 + [False] * 4
    assert _until(np.array([0, 0, 1], dtype=bool)).tolist() == [True, True, False]


def test_bands_are_in_the_panels_of_their_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the second row of a picture with facets."""
    monkeypatch.chdir(tmp_path)
    assert here("predict", *KEYS, "init.tau2=3", "dir=p") == 0
    keys = [w for w in TINY if not w.startswith("width")]
    assert here("sweep", *keys, "steps=20", "widths=[4,inf]", *LIMIT, "init.tau2=0.1,3", "dir=s") == 0
    words = ["s", "--facet=tau2", "--metrics=population_error,population_loss"]

    def lines(*more: str) -> list[int]:
        return [len(ax.lines) for ax in plot.draw(options.plot().parse_args([*words, *more]))[0].axes]

    assert [a - b for a, b in zip(lines("--predict=p"), lines(), strict=True)] == [0, 0, 0, 2]
