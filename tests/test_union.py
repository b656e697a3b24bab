"""The union of the particle sets: its curve is free of the bias of a set, and the bar holds what is left."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from commands import curves, here
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from training import trained

from mfrun.config import validated
from mfrun.dynamics.evaluate import interval, of_sets, over_sets
from mfrun.dynamics.experiment import Experiment, assemble
from mfrun.networks.limit import discretised, limit
from mfrun.runs.columns import doubt, doubtful, taken_out
from mfrun.shell.compose import compose

TASK = ["threads=1", "dataset.d=3", "depth=3", "width=inf", "alpha=0.02", "evaluation.samples=400", "dtype=float64"]
FEW = ["particles.first=32", "particles.last=32", "particles.nodes=5"]


def experiment(*words: str) -> Experiment:
    return assemble(validated(compose([*TASK, *words], [])))


def losses(e: Experiment, steps: int) -> list[float]:
    """population_loss of every network after so many steps."""
    return trained(e, [steps])[0].tolist()


@given(
    arrays(np.float64, st.tuples(st.integers(2, 9), st.just(3)), elements=st.floats(-2, 2)),
    arrays(np.float64, (3, 3), elements=st.floats(-2, 2)),
    arrays(np.float64, 3, elements=st.floats(-2, 2)),
)
def test_the_bias_of_second_order(deltas: np.ndarray, Q: np.ndarray, linear: np.ndarray) -> None:
    """f = linear + quadratic form of a set's deviation. Without bias, products of two sets are left of the second; what
    is taken out of the sets' mean lies between that and nothing, and misses it by a standard error at most."""

    def f(delta: np.ndarray) -> float:
        return float(linear @ delta + delta @ Q @ delta)

    sets = len(deltas)
    each = np.array([f(delta) for delta in deltas])
    found, bar = of_sets(torch.tensor([f(deltas.mean(0)), *each], dtype=torch.float64), sets, union=True)
    free = float(linear @ deltas.mean(0)) + np.mean(
        [a @ Q @ b for i, a in enumerate(deltas) for j, b in enumerate(deltas) if i != j]
    )
    low, high = sorted((free, each.mean()))
    assert low - 1e-9 <= found.item() <= high + 1e-9
    error = each.std(ddof=1) / math.sqrt(sets)
    assert abs(found.item() - free) <= error * sets / (sets - 1) + 1e-9
    assert bar is not None
    assert bar.item() >= max(abs(found.item() - free), scipy.stats.t.ppf(0.975, sets - 1) * error) - 1e-9


def test_a_bias_above_the_noise_is_taken_out() -> None:
    """Sets that all differ from their union by 0.7, and little from one another."""
    sets = 1.0 + 0.7 + 1e-3 * torch.linspace(-1, 1, 8, dtype=torch.float64)
    found, bar = of_sets(torch.cat([torch.ones(1).double(), sets]), 8, union=True)
    assert found.item() == pytest.approx(1.7 - 0.7 * 8 / 7, abs=1e-6)
    assert bar is not None
    assert bar.item() == pytest.approx(0.1, rel=1e-3)


def test_without_a_union_the_mean_of_the_sets() -> None:
    columns = {"loss": [1.0, 2.0, 3.0, 6.0], "loss_se": [0.1, 0.1, 0.3, 0.5]}
    found = over_sets(columns, 2)
    assert found["loss"] == [1.5, 4.5]
    assert found["loss_se"] == pytest.approx([0.1, 0.4])
    assert set(found) == {"loss", "loss_se", "loss_bar"}
    assert found["loss_bar"] == pytest.approx([12.706 * 0.5, 12.706 * 1.5], rel=1e-4)
    # Two unions, and then the sets of each.
    again = over_sets({"loss": [1.0, 4.0, 1.5, 1.5, 3.0, 6.0]}, 2, union=True)
    assert again["loss"] == [0.5, 4.5]
    assert again["loss_sets"] == [1.5, 4.5]


def test_what_is_never_negative_stays_so() -> None:
    assert over_sets({"error": [0.0, 0.1, 0.1]}, 2, union=True)["error"] == [0.0]
    assert over_sets({"mean": [-0.1, 0.1, 0.1]}, 2, union=True)["mean"] == [pytest.approx(-0.3)]


@pytest.mark.parametrize("words", [[], ["init.tau3=0.4"], ["depth=2"], ["init.tau3=0.4", "activation=tanh", "depth=4"]])
def test_members_train_as_they_would_alone(words: list[str]) -> None:
    """The sets are those of a run without a union, bit for bit; the union is the network of all their types."""
    together = losses(experiment(*FEW, *words), 40)
    alone = losses(experiment(*FEW, *words, "particles.union=false"), 40)
    assert together[1:] == alone
    e = experiment(*FEW, *words)
    layers = e.architecture.layers_of(e.blueprint)
    union = [t.together(8) for t in discretised(e.blueprint, layers)]
    network = e.architecture.network(limit(e.blueprint, layers, union), e.blueprint)
    dynamics, k = e.steps(network, e.stream()), 0
    while k < 40:
        k = dynamics.advance(k, 40)
    assert e.evaluator()(network)["population_loss"] == [together[0]]


def test_replicates_with_data_of_their_own() -> None:
    """Each replicate's union and sets see its data: replicate 0 is the run with one replicate."""
    one = losses(experiment(*FEW), 20)
    two = losses(experiment(*FEW, "replicates=2", "replicate_data=independent"), 20)
    assert two[:1] + two[2:10] == pytest.approx(one, rel=1e-12)
    assert abs(two[1] / two[0] - 1) > 1e-3


def test_the_bar_holds_the_truth() -> None:
    """Plain particles, few of them: the mean of the sets misses its truth, and the union with its bar does not."""
    words = ["particles.method=plain", "particles.first=64", "particles.last=64", "depth=2", "alpha=0.1"]
    truth = losses(experiment("depth=2", "alpha=0.1", "particles.first=16384", "particles.sets=2"), 100)[0]
    held, before, errors, bars, e = [], [], [], [], experiment(*words)
    for seed in range(40):
        start = assemble(dataclasses.replace(e.cfg, seed=dataclasses.replace(e.cfg.seed, init=seed)), e.problem)
        values = torch.tensor(losses(start, 100), dtype=torch.float64)
        found, bar = of_sets(values, 8, union=True)
        assert bar is not None
        errors.append(found.item() - truth)
        bars.append(bar.item())
        held.append(abs(errors[-1]) <= bars[-1])
        mean, own = interval(values[1:], dim=0)
        assert own is not None
        before.append(abs(mean.item() - truth) <= own.item())
    # Of 40 starts, 38 are expected; 33 or fewer would come once in 500 times.
    assert sum(held) >= 34, (sum(held), errors, bars)
    assert sum(before) <= 20, sum(before)
    # No bias is left, to three standard errors, and the bar is no wider than it has to be.
    assert abs(np.mean(errors)) < 3 * np.std(errors) / math.sqrt(40) + 1e-4
    assert np.sqrt(np.mean(np.square(bars))) < 3.5 * np.sqrt(np.mean(np.square(errors)))


def test_differences_that_are_not_small_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Sixty random labels are learned by heart. 64 particles say where their bar is too short; 512 say nothing."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((120, 10)), rng.integers(0, 2, 120)
    np.savez("a.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    words = ["threads=1", "dataset=arrays", "dataset.path=a.npz", "loss=cross_entropy", "depth=3", "alpha=0.1"]
    words += ["steps=400", "evaluation.points_per_decade=5"]
    frames = {}
    for count in (64, 512):
        few = [f"particles.first={count}", f"particles.last={count}", f"dir=s{count}"]
        assert here("train", *words, *few, "width=inf") == 0
        frames[count] = pd.read_csv(f"s{count}/metrics.csv").set_index("step")
        said = capsys.readouterr().err
        assert ("and the bar, which are for small differences, may be wrong there" in said) == (count == 64)
    coarse, fine = frames[64], frames[512]
    steps = doubtful(coarse.reset_index())
    assert steps is not None
    first, last = steps
    assert 100 < first < last == 400
    assert f"between steps {first} and 400 more than 10%" in Path("s64/run.log").read_text()
    apart = (coarse.train_loss - fine.train_loss).abs() / np.hypot(coarse.train_loss_bar, fine.train_loss_bar)
    assert apart[apart.index >= first].max() > 1
    # A comparison says it of what it holds to that limit, as far as it goes.
    assert here("train", *words, "width=8", "dir=real") == 0
    capsys.readouterr()
    assert here("compare", "s64", "real", "--metrics", "test_loss") == 0
    assert f"! between steps {first} and 400 more than 10%" in capsys.readouterr().out


def test_how_much_is_taken_out() -> None:
    """The larger of two losses' shares and of two replicates'; losses that are next to nothing are not divided by."""
    rows = pd.DataFrame({"step": [0, 0, 5, 5], "replicate": [0, 1, 0, 1], "train_loss": [1.0, 1.0, 0.5, 0.001]})
    rows["test_loss"] = [1.0, 1.0, 2.0, 2.0]
    assert taken_out(rows).empty
    assert doubtful(rows) is None
    rows["train_loss_sets"] = [1.0, 1.0, 0.52, 0.0015]
    rows["test_loss_sets"] = [1.0, 1.02, 2.1, 1.7]
    assert taken_out(rows).tolist() == pytest.approx([0.02, 0.15])
    assert doubtful(rows) == (5, 5)
    assert doubt((5, 5)).startswith("at step 5 ")
    rows.loc[3, "test_loss_sets"] = math.nan
    assert taken_out(rows).tolist() == pytest.approx([0.02, 0.05])
    assert doubtful(rows) is None
    # Nothing is said of a replicate that has diverged since.
    rows["test_loss_sets"] = [1.0, 5.0, 2.1, 1.7]
    assert doubtful(rows) == (0, 5)
    rows.loc[3, "test_loss"] = math.inf
    assert doubtful(rows) is None


def test_finite_networks_have_no_union() -> None:
    e = experiment(*FEW)
    assert e.blueprint.union
    assert e.blueprint.replicate_of == [0] * 9
    finite = dataclasses.replace(e.blueprint, width=10.0)
    assert (finite.union, finite.replicate_of) == (False, [0])


def test_a_run_that_is_older_than_the_key(capsys: pytest.CaptureFixture[str]) -> None:
    """It had no union, and goes on without one."""
    words = [*TASK[:-1], *FEW, "steps=20", "dir=r"]
    assert here("train", *words, "particles.union=false") == 0
    for file, line in (("r/config.yaml", "  union: false\n"), ("r/.hydra/overrides.yaml", "- particles.union=false\n")):
        text = Path(file).read_text()
        assert line in text
        Path(file).write_text(text.replace(line, ""))
    capsys.readouterr()
    assert here("train", *words, "steps=30", "resume=true") == 2
    assert "particles.union=true: r was started with particles.union=false" in capsys.readouterr().err
    assert here("train", *words, "steps=30", "resume=true", "particles.union=false") == 0
    assert here("train", *words, "steps=30", "particles.union=false", "dir=whole") == 0
    assert curves("r") == curves("whole")


def test_a_run_with_a_union_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TASK[:-1], *FEW]
    assert here("train", *words, "steps=20", "dir=r") == 0
    assert here("train", *words, "steps=30", "resume=true", "dir=r") == 0
    assert here("train", *words, "steps=30", "dir=whole") == 0
    assert curves("r") == curves("whole")


def test_a_run_that_is_older_than_a_column() -> None:
    """Its rows stay those of its header; a new run has the standard error of every average."""
    words = [*TASK[:-1], "width=4", "steps=20", "dir=r"]
    assert here("train", *words) == 0
    file = Path("r/metrics.csv")
    frame = pd.read_csv(file)
    assert {"population_loss_se", "population_error_se"} < set(frame)
    older = frame.drop(columns=["population_loss_se", "population_error_se"])
    older.to_csv(file, index=False)
    assert here("train", *words, "steps=30", "resume=true") == 0
    after = pd.read_csv(file)
    assert list(after) == list(older)
    assert after["step"].max() == 30
    assert after.notna().all().all()


def test_the_standard_error_is_that_of_the_samples() -> None:
    """By hand on the evaluation's samples, and against the spread over other samples."""
    e = experiment("width=6", "replicates=2")
    network, columns = e.network(), {}
    columns = e.evaluator()(network)
    x, y = next(iter(e.evaluator().sets["population"]))
    yhat = network.forward(x, network.workspace(len(x), backward=False))
    each = (yhat.view(2, 1, -1) - y).square().sum(1)
    np.testing.assert_allclose(columns["population_loss_se"], each.std(1) / math.sqrt(400), rtol=1e-6)
    seeds = [dataclasses.replace(e.cfg.seed, eval=s) for s in range(1, 61)]
    others = [assemble(dataclasses.replace(e.cfg, seed=s), e.problem).evaluator()(network) for s in seeds]
    spread = np.std([o["population_error"] for o in others], axis=0, ddof=1)
    np.testing.assert_allclose(columns["population_error_se"], spread, rtol=0.4)


def test_the_standard_error_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """By plot and status where it is asked for, and named by compare as what gaps are free of."""
    words = [w for w in TASK if not w.startswith("width")]
    assert here("sweep", *words, *FEW, "widths=[4,inf]", "steps=20", "dir=s") == 0
    value = pd.read_csv("s/width=4/metrics.csv").iloc[-1]
    capsys.readouterr()
    assert here("status", "s") == 0
    assert "+-" not in capsys.readouterr().out
    assert here("status", "s", "--se") == 0
    said = f"{value['population_loss']:.4g} +- {value['population_loss_se']:.1g}"
    assert said in capsys.readouterr().out
    for options, expected in (([], False), (["--se"], True)):
        assert here("plot", "s", *options, "--out=p.svg") == 0
        assert ("errors of the samples" in Path("p.svg").read_text()) == expected
    capsys.readouterr()
    assert here("compare", "s", "--metrics=population_loss") == 0
    out = capsys.readouterr().out
    limit = pd.read_csv("s/width=inf/metrics.csv")
    largest = limit[limit["step"] > 0]["population_loss_se"].max()
    assert "common to all widths, so that gaps are free of them: the evaluation's samples" in out
    assert f"to {largest:.2g})" in out
