"""``evaluation.kernels``: kernels of the hidden layers, against NumPy and autograd, and their gap to the limit's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import curves, here, rows

import mfrun
from mfrun.config import validated
from mfrun.dynamics.experiment import assemble
from mfrun.dynamics.kernels import Measured
from mfrun.dynamics.labels import effective_types
from mfrun.shell.compose import compose

TASK = ["threads=1", "dataset.d=4", "depth=4", "alpha=0.02", "batch=10", "evaluation.samples=100", "init.tau2=1"]
FEW = ["particles.first=64", "particles.last=32", "particles.nodes=4"]


def test_against_numpy_and_autograd() -> None:
    """E_p[a a'] from the outputs of the layer, and D_l = n_l dL/dh_l of each sample's loss."""
    words = [*TASK, "width=7", "replicates=2", "dtype=float64", "init.tau3=0.5", "architecture.ratios=[2,1,1]"]
    e = assemble(validated(compose(words, [])))
    network, measure = e.network(), Measured(e, e.evaluator(), 9)
    before = {name: array.clone() for name, array in network.state().items()}
    found = measure(network)
    assert found.features.shape == found.gradients.shape == (2, 3, 9, 9)
    assert all(torch.equal(array, before[name]) for name, array in network.state().items())
    for s in range(2):
        widths = [14, 7, 7]
        W, b = [w[s] for w in network.W], [v[s] for v in network.b]
        h, a = [], measure.x.T
        for l in range(3):
            one = W[l] @ a / (1 if l == 0 else widths[l - 1]) + b[l]
            h.append(one.detach().requires_grad_() if l == 0 else one)
            if l:
                one.retain_grad()
            a = torch.relu(h[-1])
            torch.testing.assert_close(found.features[s, l], (a.T @ a).detach() / widths[l], rtol=1e-12, atol=1e-12)
        yhat = W[3] @ a / 7 + b[3]
        (yhat - measure.y).square().sum().backward()
        for l in range(3):
            D = widths[l] * h[l].grad
            torch.testing.assert_close(found.gradients[s, l], D.T @ D / widths[l], rtol=1e-10, atol=1e-10)
    columns = measure.columns(found)
    K, y = found.features[1, 2].numpy(), measure.y.numpy()
    # As many types as there are like eigenvalues; the neurons' own Gram matrix has the same ones.
    assert columns["types_3"][1] == pytest.approx(effective_types(network.member(1), measure.x)[2], rel=1e-9)
    assert 1 < columns["types_1"][0] < 9
    H = np.eye(9) - 1 / 9
    K, Y = H @ K @ H, H @ (y.T @ y) @ H
    assert columns["alignment_3"][1] == pytest.approx((K * Y).sum() / np.linalg.norm(K) / np.linalg.norm(Y))


def test_classes_are_aligned_by_their_indicators() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)), rng.integers(0, 3, 30)
    np.savez("a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    words = [
        "dataset=arrays",
        "dataset.path=a.npz",
        "loss=cross_entropy",
        "width=5",
        "depth=2",
        "evaluation.samples=30",
    ]
    e = assemble(validated(compose(words, [])))
    measure = Measured(e, e.evaluator(), 30)
    assert sorted(measure.labels.sum(0).tolist()) == sorted(np.bincount(y).tolist())


@pytest.mark.parametrize("width", ["width=5", "width=inf"])
def test_a_run_and_its_kernels(width: str) -> None:
    """They change nothing else; a run that goes on has those of a whole one; the file says what the columns say."""
    words = [*TASK, *FEW, width, "replicates=2"]
    assert here("train", *words, "evaluation.kernels=6", "steps=10", "dir=r") == 0
    assert here("train", "dir=r", "resume=true", "steps=20") == 0
    assert here("train", *words, "evaluation.kernels=6", "steps=20", "dir=whole") == 0
    assert here("train", *words, "steps=20", "dir=without") == 0
    assert curves("r") == curves("whole")
    plain = [{k: v for k, v in row.items() if not k.startswith(("alignment", "types"))} for row in curves("r")]
    assert plain == curves("without")
    run = mfrun.load("r")
    assert run.directory.kernel_steps() == sorted({int(row["step"]) for row in rows("r")})
    found = run.kernels()
    assert found.step == 20
    assert found.features.shape == (2 if width == "width=5" else 1, 3, 6, 6)
    assert (found.features_bar is None) == (width == "width=5")
    for name in ("features", "gradients"):
        np.testing.assert_array_equal(getattr(found, name), getattr(mfrun.load("whole").kernels(20), name))
    if width == "width=5":
        (samples,) = run.directory.saved_steps()[-1:]
        assert samples == 20
    with pytest.raises(mfrun.errors.UserError, match="no kernels of step 7; there are 0, 1, 2"):
        run.kernels(7)


def test_the_gap_of_the_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    """That of the mean, by hand; those of one network fall with n."""
    words = [*TASK, "particles.first=1024", "evaluation.kernels=8", "steps=20", "replicates=8"]
    assert here("sweep", *words, "widths=[10,160,inf]", "dir=s") == 0
    capsys.readouterr()
    assert here("compare", "s", "--metrics=population_loss", "--out=c") == 0
    assert "kernels of the hidden layers at step 20" in capsys.readouterr().out
    found = pd.read_csv("c/compare_kernels.csv")
    assert len(found) == 2 * 3 * 2
    limit, narrow = (mfrun.load(f"s/width={n}").kernels().features.astype(float) for n in ("inf", 10))
    row = found[(found["kernel"] == "features") & (found["layer"] == 2) & (found["width"] == 10)].iloc[0]
    expected = np.linalg.norm(narrow.mean(0)[1] - limit[0, 1]) / np.linalg.norm(limit[0, 1])
    assert row["gap_of_mean"] == pytest.approx(expected, rel=1e-5)
    gaps = found.pivot_table(index=["kernel", "layer"], columns="width", values="gap_of_one")
    assert (gaps[10] / gaps[160] > 2).all()


def test_what_has_no_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert here("train", *TASK, "width=5", "steps=1", "dir=r") == 0
    with pytest.raises(mfrun.errors.UserError, match=r"no kernels here; evaluation.kernels=P asks"):
        mfrun.load("r").kernels()
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (20, 8, 8, 1)).astype(np.uint8), rng.integers(0, 2, 20)
    np.savez("a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    words = ["dataset=arrays", "dataset.path=a.npz", "loss=cross_entropy", "architecture=cnn", "width=2", "steps=1"]
    capsys.readouterr()
    assert here("train", *words, "architecture.layers=[{kernel:3}]", "evaluation.kernels=5", "dir=q") == 2
    assert "evaluation.kernels=5: is for dense layers, not architecture=cnn" in capsys.readouterr().err
    assert not Path("q").exists()


def test_more_samples_than_a_chunk() -> None:
    """As many as were asked for, the first ones of the split."""
    words = [w for w in TASK if not w.startswith("evaluation")]
    e = assemble(validated(compose([*words, "width=3", "evaluation.samples=2000", "evaluation.kernels=1500"], [])))
    evaluator = e.evaluator()
    measure = Measured(e, evaluator, 1500)
    assert measure(e.network()).features.shape == (1, 3, 1500, 1500)
    assert torch.equal(measure.x[1000:], list(evaluator.sets["population"])[1][0][:500])
    few = Measured(e, evaluator, 7)
    assert torch.equal(few.x, measure.x[:7])
    assert torch.equal(few.y, measure.y[:, :7])


def test_networks_are_held_to_the_limit_on_their_own_data() -> None:
    """Replicates on other batches have other kernels, in the limit as well."""
    words = [*TASK, *FEW, "evaluation.kernels=8", "steps=30", "batch=2", "replicates=3", "replicate_data=independent"]
    assert here("sweep", *words, "widths=[40,inf]", "dir=s") == 0
    assert here("compare", "s", "--metrics=population_loss", "--out=c") == 0
    found = pd.read_csv("c/compare_kernels.csv")
    limit, wide = (mfrun.load(f"s/width={n}").kernels().features.astype(float) for n in ("inf", 40))
    assert len(limit) == 3
    row = found[(found["kernel"] == "features") & (found["layer"] == 3)].iloc[0]
    apart = np.linalg.norm(wide[:, 2] - limit[:, 2], axis=(1, 2))
    expected = np.sqrt((apart**2).mean()) / np.linalg.norm(limit[:, 2].mean(0))
    assert row["gap_of_one"] == pytest.approx(expected, rel=1e-5)
    assert row["networks"] == 3


def test_stand_ins_are_rows_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    """Beside real networks of the same width; and what is evaluated elsewhere, or repeats a network, is left out."""
    words = [*TASK, *FEW, "evaluation.kernels=8", "steps=5"]
    assert here("sweep", *words, "widths=[32,64,inf]", "neurons=null,16", "dir=t/s") == 0
    assert here("train", *words, "width=32", "seed.eval=1", "dir=t/elsewhere") == 0
    assert here("train", *words, "width=32", "dir=t/again") == 0
    capsys.readouterr()
    assert here("compare", "t", "--metrics=population_loss", "--out=c") == 0
    out = capsys.readouterr().out
    (heads,) = (line for line in out.splitlines() if "n=32 by 16" in line)
    assert heads.split()[:8] == ["n=32", "n=32", "by", "16", "n=64", "n=64", "by", "16"]
    assert heads.count("n=") == 4
    found = pd.read_csv("c/compare_kernels.csv")
    assert sorted(found.groupby(["width", "neurons"], dropna=False).size()) == [6] * 4
    assert set(found["networks"]) == {1}
