"""``mfrun ensemble``: against closed forms, and as a command."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import LIMIT, here
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from mfrun.study.averages import ALL, ensembles

TASK = ["dataset.d=3", "depth=3", "batch=5", "evaluation.samples=200", "steps=40", "threads=1"]


def squared(y: Tensor):
    """The squared loss of outputs (n_out, samples)."""
    return lambda yhat: float((yhat - y).square().sum(0).mean())


@given(arrays(np.float64, st.tuples(st.sampled_from([2, 3, 4, 8]), st.just(2), st.just(3)), elements=st.floats(-3, 3)))
def test_the_squared_loss_of_infinitely_many(outputs: np.ndarray) -> None:
    """It is the average of products of two errors from different groups; of four networks, of any two of them."""
    y = torch.arange(6, dtype=torch.float64).view(2, 3)
    found = ensembles(squared(y), torch.from_numpy(outputs), [])
    errors = (outputs - y.numpy()).reshape(len(outputs), -1)
    m = len(errors)
    products = [errors[r] @ errors[s] / 3 for r in range(m) for s in range(m) if r % 4 != s % 4]
    assert found.of[ALL].value == pytest.approx(np.mean(products), abs=1e-9)
    assert found.of[1].value == pytest.approx((errors**2).sum(1).mean() / 3, abs=1e-9)
    if m <= 4:
        assert found.variance.value == pytest.approx(outputs.var(0, ddof=1).sum() / 3, abs=1e-9)


def test_errors_hold_the_truth() -> None:
    """Networks that are off by 0.3 in common and by sigma = 0.5 of their own: L_k = 0.09 + 0.25 / k."""
    y, rng = torch.zeros((1, 30), dtype=torch.float64), np.random.default_rng(0)
    truth = {1: 0.34, 2: 0.215, 4: 0.1525, ALL: 0.09}
    held, values = {k: [] for k in truth}, {k: [] for k in truth}
    for _ in range(100):
        outputs = torch.from_numpy(0.3 + 0.5 * rng.standard_normal((16, 1, 30)))
        found = ensembles(squared(y), outputs, [2, 4])
        for k, value in truth.items():
            held[k].append(abs(found.of[k].value - value) <= 1.96 * found.of[k].error)
            values[k].append(found.of[k].value)
    for k, value in truth.items():
        assert 85 <= sum(held[k]) <= 100, (k, sum(held[k]))
        assert abs(np.mean(values[k]) - value) < 4 * np.std(values[k]) / 10, k


def test_two_networks_have_no_error() -> None:
    found = ensembles(squared(torch.zeros((1, 4)).double()), torch.randn((2, 1, 4)).double(), [2, 8])
    assert set(found.of) == {1, ALL}
    assert all(math.isnan(e.error) for e in found.of.values())


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ensembles") / "s"
    keys = [*TASK, *LIMIT, "widths=[5,20,inf]", "replicates=6", "keep_checkpoints=2"]
    assert here("sweep", *keys, f"dir={path}") == 0
    return path


def test_the_table(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert here("ensemble", str(sweep), "--networks=2,3", "--out=e") == 0
    said = capsys.readouterr().out
    assert "population_loss at step 40" in said
    assert "won back by k=inf" in said
    found = pd.read_csv("e/ensemble.csv")
    assert Path("e/ensemble.png").stat().st_size > 10000
    assert set(found["k"]) == {1, 2, 3, math.inf}
    for n in (5, 20):
        rows = pd.read_csv(sweep / f"width={n}" / "metrics.csv")
        rows = rows[rows["step"] == 40]
        for metric in ("population_loss", "population_error"):
            part = found[(found["width"] == n) & (found["metric"] == metric)].set_index("k")
            assert part.loc[1, "value"] == pytest.approx(rows[metric].mean(), rel=1e-6)
            limit = pd.read_csv(sweep / "width=inf" / "metrics.csv").iloc[-1][metric]
            np.testing.assert_allclose(part["gap"], part["value"] - limit, atol=1e-7)
            assert part.loc[1, "variance"] == pytest.approx(part.loc[1, "value"] - part.loc[math.inf, "value"])
            # Of the squared loss, an average of k has 1 / k of the variance.
            if metric == "population_loss":
                assert (part["value"].diff().dropna() < 0).all()


def test_an_earlier_step(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert here("ensemble", str(sweep), "--step=10", "--metrics=population_loss", "--out=e") == 0
    assert "population_error" not in capsys.readouterr().out
    found = pd.read_csv("e/ensemble.csv")
    assert set(found["step"]) == {10}
    rows = pd.read_csv(sweep / "width=5" / "metrics.csv")
    expected = rows[rows["step"] == 10]["population_loss"].mean()
    assert found[(found["width"] == 5) & (found["k"] == 1)]["value"].item() == pytest.approx(expected, rel=1e-6)


def test_beside_a_prediction(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["predict.groups=2", "predict.pairs=2", "predict.tested=0", "predict.first=32", "predict.last=16"]
    assert here("predict", *TASK, *LIMIT, *few, "dir=p", "--metrics", "population_loss") == 0
    capsys.readouterr()
    assert here("ensemble", str(sweep), "--predict=p", "--out=e") == 0
    assert "predicted" in capsys.readouterr().out
    law = pd.read_csv("p/predict.csv")
    law = law[(law["metric"] == "population_loss") & (law["step"] == 40)].iloc[0]
    found = pd.read_csv("e/ensemble.csv")
    part = found[(found["metric"] == "population_loss") & (found["width"] == 20)].set_index("k")["predicted_gap"]
    assert part[1] == pytest.approx(law["c"] / 20)
    assert part[math.inf] == pytest.approx(law["common"] / 20)
    assert part[2] == pytest.approx((law["c"] + law["common"]) / 2 / 20)
    # Of a step that it does not have a prediction says nothing, and the command says so.
    assert here("predict", *TASK, *LIMIT, *few, "budget=0.5", "dir=short", "--metrics", "population_loss") == 0
    capsys.readouterr()
    assert here("ensemble", str(sweep), "--predict=short", "--out=e") == 0
    said = capsys.readouterr()
    assert (
        said.err.count("--predict short: says nothing of step 40, and its last step is 20; --step names another") == 1
    )
    assert "predicted" not in said.out


def test_the_table_is_shown_where_it_cannot_be_written(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    assert here("ensemble", str(sweep), "--out=file/e") == 2
    said = capsys.readouterr()
    assert "won back by k=inf" in said.out
    assert said.err.splitlines() == ["mfrun: --out file/e: cannot be written (Not a directory)"]


def test_without_a_limit(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert here("ensemble", str(sweep / "width=5"), "--out=e") == 0
    assert "(no width=inf on these data here, or it diverged)" in capsys.readouterr().out
    assert "gap" not in pd.read_csv("e/ensemble.csv")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--networks=0"], "--networks 0: whole numbers from 1 on, as in 2,4,8"),
        (["--networks=two"], "--networks two: whole numbers from 1 on"),
        (["--step=7"], "--step 7: no state of that step that all runs have; they have 0,"),
        (["--metrics=accuracy"], "--metrics accuracy: not one of population_loss, population_error"),
    ],
)
def test_bad_options(sweep: Path, words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert here("ensemble", str(sweep), *words) == 2
    error = capsys.readouterr().err
    assert why in error
    assert len(error.splitlines()) == 1


def test_networks_that_cannot_be_averaged(capsys: pytest.CaptureFixture[str]) -> None:
    assert here("train", *TASK, "width=4", "dir=one") == 0
    assert here("train", *TASK, "width=4", "replicates=3", "replicate_data=independent", "dir=apart") == 0
    capsys.readouterr()
    assert here("ensemble", "one") == 2
    assert "no width here has two networks to average; replicates=8 trains eight" in capsys.readouterr().err
    assert here("ensemble", "apart") == 2
    assert "networks whose outputs are averaged share their data" in capsys.readouterr().err


def test_networks_that_are_there_twice_count_once(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for init, name in ((0, "a"), (0, "b"), (1, "c")):
        assert here("train", *TASK, "width=4", f"seed.init={init}", "keep_checkpoints=1", f"dir=d/{name}") == 0
    capsys.readouterr()
    assert here("ensemble", "d", "--out=e") == 0
    assert set(pd.read_csv("e/ensemble.csv")["networks"]) == {2}


def test_outputs_at_other_samples_are_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert here("sweep", *TASK, "widths=[4]", "replicates=2", "seed.eval=0,1", "dir=s") == 0
    capsys.readouterr()
    assert here("ensemble", "s") == 2
    assert "outputs are compared at the same samples; these runs differ in seed.eval" in capsys.readouterr().err


def test_the_limit_is_that_on_the_networks_own_batches(capsys: pytest.CaptureFixture[str]) -> None:
    """A limit that has seen others is none of theirs; a width that is real and stood for has one part in a law."""
    assert here("sweep", *TASK, "widths=[4]", "neurons=null,2", "replicates=3", "seed.init=0,1", "dir=s") == 0
    assert here("train", *TASK, *LIMIT, "width=inf", "seed.data=1", "dir=s/a") == 0
    capsys.readouterr()
    assert here("ensemble", "s", "--metrics=population_loss") == 0
    out, err = capsys.readouterr()
    assert "(no width=inf on these data here, or it diverged)" in out
    assert "n^-r" not in out
    assert err == ""
    assert here("train", *TASK, *LIMIT, "width=inf", "dir=s/b") == 0
    capsys.readouterr()
    assert here("ensemble", "s", "--metrics=population_loss") == 0
    told = float(capsys.readouterr().out.split("as gaps to the limit's ")[1].split("\n")[0])
    frame = pd.read_csv("s/b/metrics.csv")
    assert told == pytest.approx(frame["population_loss"].iloc[-1], rel=1e-3)


def test_a_setting_that_cannot_be_averaged_is_left_out(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One with single networks, and one that diverged; the others are there. So is a width with one network."""
    words = [w for w in TASK if not w.startswith("depth")]
    assert here("train", *words, "depth=4", "width=4", "keep_checkpoints=1", "dir=m/one") == 0
    assert here("train", *words, "depth=2", "alpha=1e6", "width=4", "replicates=2", "dir=m/lost") != 2
    capsys.readouterr()
    assert here("ensemble", str(sweep), "m", "--out=e") == 0
    out, err = capsys.readouterr()
    assert "left out: no width here has two networks to average [depth=4" in err
    assert "depth=2" in err
    assert "nan" not in out
    assert here("train", *TASK, "width=7", "keep_checkpoints=1", "dir=m/seven") == 0
    capsys.readouterr()
    assert here("ensemble", str(sweep), "m/seven", "--out=e") == 0
    assert capsys.readouterr().err == "left out: n = 7: has one network\n"
