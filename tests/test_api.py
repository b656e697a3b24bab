"""mfrun from Python: what a notebook sees of runs and sweeps, against what the commands wrote and against torch."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import ARRAYS, LIMIT, TINY, here, status
from formats import images, write_arrays

import mfrun
from mfrun.dynamics.labels import effective_types
from mfrun.errors import UserError
from mfrun.runs.directory import RunDirectory
from mfrun.runs.progress import WRITES_TO

SEVERAL = ["threads=1", *TINY[2:], "steps=20"]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> mfrun.Sweep:
    top = tmp_path_factory.mktemp("sweep") / "s"
    words = ["widths=[10,3,inf]", "init.tau2=0.5,3", "replicates=2", "replicate_data=independent", *LIMIT]
    assert here("sweep", *SEVERAL, *words, f"dir={top}") == 0
    loaded = mfrun.load(top)
    assert isinstance(loaded, mfrun.Sweep)
    return loaded


def test_a_sweep_is_one_tidy_table(sweep: mfrun.Sweep) -> None:
    frame = sweep.frame
    assert list(frame)[:5] == ["width", "init.tau2", "step", "t", "replicate"]
    order = frame[["init.tau2", "width"]].drop_duplicates().to_numpy().tolist()
    assert order == [[tau, n] for tau in (0.5, 3) for n in (3, 10, math.inf)]
    one = pd.read_csv(sweep.path / "width=10,init.tau2=3.0" / "metrics.csv")
    found = frame[(frame["width"] == 10) & (frame["init.tau2"] == 3)].reset_index(drop=True)
    pd.testing.assert_frame_equal(found[list(one)], one)
    assert frame["population_loss_bar"].notna().equals(np.isinf(frame["width"]))
    assert [run.width for run in sweep] == [3, 10, math.inf] * 2
    assert len(sweep) == len(sweep[:]) == 6
    assert sweep[0].config["init"]["tau2"] == 0.5
    assert sweep[-1].status["state"] == "finished"
    assert set(sweep.status["state"]) == {"finished"}
    assert sweep.config["swept"] == ["width", "init.tau2"]
    assert [(c.width, c.setting) for c in sweep.curves()][:2] == [(3, {"init.tau2": 0.5}), (10, {"init.tau2": 0.5})]
    assert "6 of 6 runs done" in repr(sweep)
    assert "n = 3, finished, step 20" in repr(sweep[0])


def test_runs_of_no_sweep_are_told_apart_by_what_differs() -> None:
    for name, words in {"a": ["activation=tanh"], "b": ["activation=relu", "seed.init=5"]}.items():
        assert here("train", *TINY, "steps=5", *words, f"dir=runs/{name}") == 0
    both = mfrun.load("runs")
    assert isinstance(both, mfrun.Sweep)
    assert {"activation.name", "seed.init"} <= set(both.swept)
    assert set(both.frame["activation.name"]) == {"tanh", "relu"}


def test_options_of_one_component_are_told_apart() -> None:
    """init=normal and init=uniform are both init.name=iid."""
    assert here("sweep", *SEVERAL, "init=normal,uniform", "widths=[3]", "dir=s") == 0
    frame = mfrun.load("s").frame
    assert frame["init"].unique().tolist() == ["normal", "uniform"]
    assert here("export", "s", "--out", "s.csv") == 0
    assert pd.read_csv("s.csv")["init"].unique().tolist() == ["normal", "uniform"]


def test_predictions_are_the_network_s(sweep: mfrun.Sweep) -> None:
    """The union of the particle sets less its bias, and its bar, by hand; a finite network by plain torch."""
    x = np.random.default_rng(0).normal(size=(7, 3))
    finite = next(run for run in sweep if run.width == 10)
    found = finite.predict(x)
    assert found.bar is None
    assert found.yhat.shape == (2, 7, 1)
    arrays = finite.network().state()
    for r in range(2):
        a = torch.tensor(x.T, dtype=torch.float32)
        for l in (1, 2):
            a = torch.relu(arrays[f"W{l}"][r] @ a / (1 if l == 1 else 10) + arrays[f"b{l}"][r])
        yhat = arrays["W3"][r] @ a / 10 + arrays["b3"][r]
        np.testing.assert_allclose(found.yhat[r, :, 0], yhat[0].numpy(), rtol=1e-4, atol=1e-6)

    limit = next(run for run in sweep if math.isinf(run.width))
    found = limit.predict(x)
    assert found.yhat.shape == (2, 7, 1)
    network = limit.network()
    arrays = {name: array.numpy() for name, array in network.state().items()}

    def outputs(prefix: str, part: int) -> np.ndarray:
        W, b = ([arrays[f"{prefix}{name}{l}"] for l in (1, 2, 3)] for name in "Wb")
        a = np.maximum(W[0] @ x.T + b[0], 0)
        for l in (1, 2):
            measure = network.parts[part].p[l]
            p = np.stack([measure.probabilities(a.shape[1], s).numpy() for s in range(len(a))])
            above = W[l] @ (p[..., None] * a) + b[l]
            a = np.maximum(above, 0)
        return above.swapaxes(1, 2)

    union, sets = outputs("", 0), outputs("sets.", 1).reshape(2, 8, 7, 1)
    np.testing.assert_allclose(limit.hidden(x, layer=2).p.shape, (2, 2 * arrays["sets.W2"].shape[1]))
    difference, error = sets.mean(1) - union, sets.std(1, ddof=1) / math.sqrt(8)
    known, bias = np.maximum(1 - (error / difference) ** 2, 0), difference * 8 / 7
    np.testing.assert_allclose(found.yhat, sets.mean(1) - known * bias, rtol=1e-4, atol=1e-6)
    bar = np.sqrt((2.364624252 * error) ** 2 + ((1 - known) * bias) ** 2 + (known * bias / 8) ** 2)
    assert found.bar is not None
    np.testing.assert_allclose(found.bar, bar, rtol=1e-2, atol=1e-6)


def test_a_layer_with_its_measure(sweep: mfrun.Sweep) -> None:
    x = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    for run in (sweep[0], sweep[2]):
        for layer in (1, 2):
            hidden = run.hidden(x, layer)
            assert hidden.h.shape == hidden.a.shape == (*hidden.p.shape, 5)
            np.testing.assert_allclose(hidden.p.sum(1), 1, rtol=1e-6)
            np.testing.assert_array_equal(hidden.a, np.maximum(hidden.h, 0))
    first = sweep[0].hidden(x, 1, step=20)
    W, b = (sweep[0].network(step=20).state()[k].numpy() for k in ("W1", "b1"))
    np.testing.assert_allclose(first.h, W @ x.T + b, rtol=1e-4, atol=1e-6)


def test_inputs_are_those_of_the_data_set() -> None:
    """Pixels are scaled as in training: the averages over the test set are those that the run has logged."""
    write_arrays(Path("a.npz"))
    assert here("train", *ARRAYS, "steps=30", "dir=r") == 0
    run = mfrun.load("r")
    assert isinstance(run, mfrun.Run)
    with np.load("a.npz") as arrays:
        yhat = run.predict(arrays["x_test"]).yhat
        error = float((yhat[0].argmax(1) != arrays["y_test"]).mean())
    assert run.frame["test_error"].iloc[-1] == pytest.approx(error, abs=1e-6)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda s: s[0].predict(np.zeros((4, 2))), r"inputs of shape \(4, 2\): these networks take \(samples, 3\)"),
        (lambda s: s[0].predict(np.zeros((4, 3), int)), "inputs of type torch.int64: pixels are uint8"),
        (lambda s: s[0].hidden(np.zeros((4, 3)), 3), "layer=3: the hidden layers are 1 to 2"),
        (lambda s: s[0].network(step=7), "no state of step 7"),
        (lambda s: mfrun.load("nowhere"), "nowhere: no such folder"),
        (lambda s: mfrun.Run(s.path), "no run here"),
        (lambda s: mfrun.plot(s, metrics="none"), "metrics none: not logged"),
        (lambda s: mfrun.plot(s, colour="red"), "unrecognized arguments: --colour=red; mfrun plot --help"),
        (lambda s: mfrun.compare(s, tolerance=-1), "tolerance -1.0: must be a number > 0"),
        (lambda s: mfrun.train(["width=0"]), "width=0"),
        (lambda s: mfrun.sweep(["widths=[3]", "alpha=-1"]), "alpha=-1.0: a learning rate is a finite number > 0"),
        (lambda s: mfrun.sweep(["widht=3"]), "widht=3: unknown key"),
        (lambda s: mfrun.train(["--help"]), "--help: is for the command line"),
        (lambda s: mfrun.train(["--cfg", "job"]), "--cfg: is for the command line"),
        (lambda s: mfrun.sweep(["--dry-run"]), "--dry-run: is for the command line"),
        (lambda s: mfrun.train([3]), "takes a list of words"),
        (lambda s: mfrun.train(["--latest"]), "--latest: goes on with the newest one"),
        (lambda s: s[0].predict(np.zeros((0, 3))), r"inputs of shape \(0, 3\): hold no sample"),
        (lambda s: s[0].predict("abc"), "inputs: an array of samples, not str"),
        (
            lambda s: s[0].hidden(np.zeros((4, 3)), 1.5),
            "layer=1.5: must be a whole number; the hidden layers are 1 to 2",
        ),
        (lambda s: s[0].hidden(np.zeros((4, 3)), "1"), "layer='1': must be a whole number"),
        (lambda s: s[0].network("20"), "step='20': must be a whole number"),
        (lambda s: s[0].predict(np.zeros((4, 3)), 20.0), "step=20.0: must be a whole number"),
        (lambda s: s[0].kernels("20"), "step='20': must be a whole number"),
        (lambda s: _of_arrays().features(2, replicate="0"), "replicate='0': must be a whole number"),
        (lambda s: mfrun.plot(s, help=True), "help=: has no meaning from Python; mfrun plot --help"),
        (lambda s: mfrun.plot(s, he=True), "unrecognized arguments: --he; mfrun plot --help"),
        (lambda s: mfrun.compare(s, help=True), "help=: has no meaning from Python; mfrun compare --help"),
        (lambda s: mfrun.plot("-h"), "-h: no such folder"),
        (lambda s: mfrun.plot(s, format="pdf"), "format=: has no meaning from Python; the ending of out= says it"),
        (lambda s: mfrun.plot(s, out="f.doc"), "--out f.doc: the format is told by the ending"),
        (lambda s: mfrun.compare(s, out="d"), "out=: has no meaning from Python; the table is returned"),
        (lambda s: mfrun.compare(s, predict="d"), "predict=: has no meaning from Python"),
        (lambda s: mfrun.train(["-cjob"]), "-cjob: is for the command line"),
    ],
)
def test_bad_input_is_one_line(sweep: mfrun.Sweep, what: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        what(sweep)  # type: ignore[operator]
    assert len(str(error.value).splitlines()) == 1


def _of_arrays() -> mfrun.Run:
    write_arrays(Path("a.npz"))
    return mfrun.train([*ARRAYS, "steps=1", "dir=of_arrays"])


def test_trained_from_python_as_from_the_shell(sweep: mfrun.Sweep) -> None:
    words = [*SEVERAL, "widths=[3,10,inf]", "init.tau2=0.5,3", "replicates=2", "replicate_data=independent", *LIMIT]
    again = mfrun.sweep([*words, "dir=again"])
    pd.testing.assert_frame_equal(*(s.frame.drop(columns="wall_seconds") for s in (again, sweep)))
    alone = mfrun.train([*(w for w in words if w[:4] not in ("init", "widt")), "width=3", "init.tau2=3", "dir=r"])
    same = sweep.frame[(sweep.frame["width"] == 3) & (sweep.frame["init.tau2"] == 3)].reset_index(drop=True)
    columns = list(alone.frame.drop(columns="wall_seconds"))
    pd.testing.assert_frame_equal(alone.frame[columns], same[columns], check_dtype=False)
    assert alone.network().replicates == 2


def test_pictures_and_tables(sweep: mfrun.Sweep) -> None:
    figure = mfrun.plot(sweep, metrics=["population_loss", "population_error"])
    assert len(figure.axes) == 2
    table = mfrun.compare(sweep, metrics="population_loss")
    assert table["width"].tolist() == [3, 10] * 2
    assert (table["gap_of_one"] > 0).all()
    mfrun.plot(sweep, metrics="population_loss", out="f.png", dpi=50)
    assert Path("f.png").stat().st_size > 0


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_export(sweep: mfrun.Sweep, format: str) -> None:
    assert here("export", str(sweep.path), "--out", f"table.{format}") == 0
    frame = pd.read_csv("table.csv") if format == "csv" else pd.read_parquet("table.parquet")
    pd.testing.assert_frame_equal(frame, sweep.frame, check_dtype=False)


def test_a_table_does_not_replace_a_run_s_record(capsys: pytest.CaptureFixture[str]) -> None:
    assert here("train", *TINY, "steps=2", "dir=metrics") == 0
    before = Path("metrics/metrics.csv").read_bytes()
    capsys.readouterr()
    assert here("export", "metrics") == 0
    assert capsys.readouterr().out.strip() == "metrics/export.csv"
    assert "width" in pd.read_csv("metrics/export.csv")
    assert here("export", "metrics", "--out", "metrics/../metrics/metrics.csv") == 2
    err = capsys.readouterr().err
    assert err.startswith("mfrun: --out metrics/../metrics/metrics.csv: is the run's own record")
    assert err.count("\n") == 1
    assert Path("metrics/metrics.csv").read_bytes() == before
    # Beside no run the name is free.
    assert here("export", "metrics", "--out", "metrics.csv") == 0


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_an_older_table_stays_whole_where_a_new_one_fails(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(frame: pd.DataFrame, file: Path, index: bool) -> None:
        file.write_text("half")
        raise OSError(28, "No space left on device")

    assert here("train", *TINY, "steps=2", "dir=r") == 0
    Path("t").with_suffix(f".{format}").write_text("whole")
    monkeypatch.setattr(pd.DataFrame, f"to_{format}", fails)
    assert here("export", "r", "--out", f"t.{format}") == 2
    assert {file.name: file.read_text() for file in Path().glob("*t.*")} == {f"t.{format}": "whole"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--step", "5"], "--step 5: is one of --features"),
        (["--replicate", "0"], "--replicate 0: is one of --features"),
        (["--features", "1", "--format", "parquet"], "--format parquet: is that of the table"),
    ],
)
def test_options_of_the_other_export(
    sweep: mfrun.Sweep, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here("export", str(sweep[0].path), *words) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"mfrun: {said}")
    assert err.count("\n") == 1


def test_parquet_without_its_package(
    sweep: mfrun.Sweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyarrow", "fastparquet"):
        monkeypatch.setitem(sys.modules, name, None)
    Path("t.parquet").write_text("whatever")
    assert here("export", str(sweep.path), "--out", "table.parquet") == 2
    assert here("train", *ARRAYS, "dataset.path=t.parquet", "dataset.target=y", "dir=r") == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "mfrun: --format parquet: needs a package that is not here; pip install pyarrow"
    assert second.endswith("t.parquet: reading Parquet needs a package that is not here; pip install pyarrow")


def test_a_data_set_as_a_hidden_layer_sees_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Features are a_2 by hand, in the order of the data set; another network learns from the file that holds them."""
    write_arrays(Path("a.npz"))
    assert here("train", *ARRAYS, "width=6", "replicates=2", "steps=20", "dir=r") == 0
    run = mfrun.load("r")
    assert isinstance(run, mfrun.Run)
    assert here("export", "r", "--features", "2", "--replicate", "1", "--out", "f.npz") == 0
    assert "f.npz" in capsys.readouterr().out
    with np.load("f.npz") as file, np.load("a.npz") as source:
        written, raw = dict(file), dict(source)
    for split in ("train", "test"):
        assert written[f"y_{split}"].tolist() == raw[f"y_{split}"].tolist()
        a = run.hidden(raw[f"x_{split}"], 2).a[1]
        np.testing.assert_allclose(written[f"x_{split}"], a.T, rtol=1e-6)
    # The outputs are affine in them, and the rest of the network is not: 20 samples, 6 features.
    yhat = run.predict(raw["x_train"]).yhat
    rows = np.column_stack([written["x_train"], np.ones(20)])
    left = [np.abs(y - rows @ np.linalg.lstsq(rows, y, rcond=None)[0]).max() for y in yhat]
    assert left[1] < 1e-5 < left[0]
    assert here("train", *ARRAYS, "dataset.path=f.npz", "steps=5", "dir=again") == 0
    assert tuple(mfrun.Run("again").hidden(written["x_test"], 1).h.shape) == (1, 4, 10)


def test_features_of_a_cnn_are_its_channels_and_pixels() -> None:
    """Samples last in what is hidden, rows in what is written; the output is the layer's average."""
    (x, y), (u, v) = (images(seed, 12, (8, 8, 3), 3) for seed in (0, 1))
    np.savez("a.npz", x_train=x, y_train=y % 3, x_test=u, y_test=v % 3)
    layers = "architecture.layers=[{stride:2},{ratio:2,pool:2}]"
    words = ["dataset=arrays", "dataset.path=a.npz", "loss=cross_entropy", "architecture=cnn", layers]
    run = mfrun.train(["threads=1", *words, "width=3", "steps=3", "batch=5", "dir=r"])
    for layer in (1, 2):
        a = run.hidden(u, layer).a[0]
        assert a.ndim == 4
        np.testing.assert_allclose(run.hidden(u[:5], layer).a[0], a[..., :5], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(run.features(layer)["x_test"], np.moveaxis(a, -1, 0).reshape(12, -1))
        # How many types a layer has is about its filters.
        s = np.linalg.svd(a.reshape(len(a), -1), compute_uv=False) ** 2
        types = effective_types(run.network(), torch.from_numpy(u.reshape(12, -1)) / 127.5 - 1)
        assert types[layer - 1] == pytest.approx(s.sum() ** 2 / (s**2).sum(), rel=1e-4)
    # Eq. (1) of a CNN: the average over 6 filters and 2 x 2 pixels.
    W, b = (run.network().state()[k][0].numpy() for k in ("W3", "b3"))
    yhat = np.einsum("nhwb,onhw->bo", run.hidden(x, 2).a[0], W) / (6 * 4)
    np.testing.assert_allclose(yhat + b, run.predict(x).yhat[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["s", "--features", "1"], "s: --features are those of one run, and here are 2"),
        (["s/width=3", "--features", "3"], "layer=3: the hidden layers are 1 to 2"),
        (["s/width=3", "--features", "1", "--replicate", "1"], "replicate=1: the replicates are 0 to 0"),
        (["s/width=3", "--features", "1", "--out", "f.csv"], "--out f.csv: features are written as .npz"),
        (["s/width=3", "--features", "1", "--out", "nowhere/f.npz"], "nowhere/f.npz: cannot be written"),
        (["s/width=inf", "--features", "1"], "features are those of n real neurons"),
        (["g", "--features", "1"], "g: its data set draws fresh samples"),
    ],
)
def test_features_that_are_not_there(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_arrays(Path("a.npz"))
    if words[0].startswith("s"):
        assert here("sweep", *ARRAYS[:1], *ARRAYS[2:], "widths=[3,inf]", *LIMIT, "steps=2", "dir=s") == 0
    else:
        assert here("train", *TINY, "steps=2", "dir=g") == 0
    capsys.readouterr()
    assert here("export", *words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_importing_is_light_and_names_are_there() -> None:
    check = "import sys, mfrun; assert mfrun.load and mfrun.Run; "
    check += "print([m for m in ('torch', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert {"load", "train", "sweep", "plot", "compare", "Run", "Sweep"} <= set(mfrun.__all__)


def test_options_that_may_be_repeated_take_lists() -> None:
    assert here("sweep", *TINY[:1], *TINY[2:], "widths=[3,4]", "steps=3", "dir=s") == 0
    limits = [ax.get_ylim() for ax in mfrun.plot("s", ylim=["population_loss=0,7", "population_error=0,0.5"]).axes]
    assert limits == [(0, 7), (0, 0.5)]
    assert {ax.get_ylim() for ax in mfrun.plot("s", ylim=(0, 3)).axes} == {(0, 3)}


def test_inputs_are_what_the_data_are() -> None:
    """Pixels where these are pixels, floats where they are floats, and images with their axes in order."""
    rng = np.random.default_rng(0)
    arrays = {f"y_{s}": np.arange(8) % 2 for s in ("train", "test")}
    pixels = {f"x_{s}": rng.integers(0, 256, (8, 4, 5, 3), dtype=np.uint8) for s in ("train", "test")}
    np.savez("p.npz", **arrays, **pixels)
    np.savez("f.npz", **arrays, **{name: x.astype(float) for name, x in pixels.items()})
    x = pixels["x_test"]
    words = [w for w in ARRAYS if not w.startswith("dataset.path")]
    for name in "pf":
        assert here("train", *words, f"dataset.path={name}.npz", "steps=2", f"dir={name}") == 0
    p, f = mfrun.load("p"), mfrun.load("f")
    assert isinstance(p, mfrun.Run)
    assert isinstance(f, mfrun.Run)
    np.testing.assert_allclose(p.predict(x).yhat, p.predict(x / 127.5 - 1).yhat, rtol=1e-5)
    np.testing.assert_array_equal(p.predict(x).yhat, p.predict(x.reshape(8, -1)).yhat)
    for run, wrong, message in (
        (p, x.astype(float), "these data are pixels, uint8, or floats scaled to -1..1 already"),
        (f, x, "these data are floats, and nothing scales them"),
        (p, np.moveaxis(x, 3, 1), r"images are \(samples, H, W, C\), here \(4, 5, 3\)"),
    ):
        with pytest.raises(UserError, match=message):
            run.predict(wrong)


def test_samples_lie_in_memory_as_they_like(sweep: mfrun.Sweep) -> None:
    """Backwards, flipped, of the other end first, read only: what counts is the numbers."""
    x = np.random.default_rng(0).normal(size=(6, 3))
    fixed = x.copy()
    fixed.flags.writeable = False
    yhat = sweep[0].predict(x).yhat
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for same in (x[::-1].copy()[::-1], np.asfortranarray(x), x.astype(">f8"), fixed):
            np.testing.assert_array_equal(sweep[0].predict(same).yhat, yhat)
    np.testing.assert_array_equal(sweep[0].predict(x[::-1]).yhat, sweep[0].predict(x[::-1].copy()).yhat)


def test_the_caller_s_threads_stay_what_they_were() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        mfrun.train([*TINY, "steps=1", "dir=r"])
        assert torch.get_num_threads() == 2
        with pytest.raises(UserError, match="holds a run already"):
            mfrun.train([*TINY, "steps=1", "dir=r"])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_rows_are_grouped_by_lists() -> None:
    assert here("sweep", *SEVERAL, "widths=[2]", "architecture.ratios=[1,1],[1,2]", "dir=s") == 0
    frame = mfrun.load("s").frame
    assert set(frame.groupby("architecture.ratios").population_loss.last().index) == {"[1, 1]", "[1, 2]"}


def test_a_run_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert here("sweep", *SEVERAL, "widths=[3,4]", "dir=s") == 0
    sweep, run = mfrun.load("s"), mfrun.load("s/width=3")
    assert isinstance(sweep, mfrun.Sweep)
    frame = sweep.frame
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    pd.testing.assert_frame_equal(sweep.frame, frame)
    assert run.path.is_dir()
    assert repr(run) == "<Run s/width=3: n = 3, finished, step 20>"
    assert repr(sweep) == "<Sweep s: width; 2 of 2 runs done>"
    assert run.predict(np.zeros((1, 3))).yhat.shape == (1, 1, 1)
    assert len(sweep.curves()) == 2
    assert mfrun.plot(sweep).axes


def test_a_sweep_finds_the_modules_that_its_caller_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("lib").mkdir()
    Path("lib/zz.py").write_text("import torch\n\n\ndef f(h):\n    return torch.tanh(h)\n")
    monkeypatch.setattr(sys, "path", ["lib", *sys.path])
    sweep = mfrun.sweep([*SEVERAL, "widths=[3]", "activation.name=zz:f", "dir=s"])
    assert sweep[0].status["state"] == "finished"


def test_a_sweep_whose_run_fails_says_which() -> None:
    folder = RunDirectory("s/width=5")
    folder.path.mkdir(parents=True)
    folder.lock()
    try:
        with pytest.raises(UserError, match=r"^s: width=5 failed; mfrun status s$"):
            mfrun.sweep([*SEVERAL, "widths=[3,5]", "dir=s"])
    finally:
        folder.unlock()
    assert status("s/width=3")["state"] == "finished"


@pytest.mark.parametrize(
    ("number", "error", "said"),
    [
        (9, UserError, "s: was killed by signal 9; resume=true goes on"),
        (15, KeyboardInterrupt, f"{WRITES_TO}s"),
    ],
)
def test_a_sweep_that_a_signal_ends(
    number: int, error: type[BaseException], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has asked a sweep to stop that the system has killed, for want of memory as a rule."""
    command = Path("python").absolute()
    command.write_text(f'#!/bin/sh\necho "{WRITES_TO}s" >&2\nkill -{number} $$\n')
    command.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(command))
    with pytest.raises(error) as raised:
        mfrun.sweep([*SEVERAL, "dir=s"])
    assert str(raised.value) == said


# Ctrl-C as Jupyter sends it: to this process alone.
INTERRUPTED = """\
import os, signal, sys, threading, time
import mfrun
from commands import steps_logged

def interrupt():
    while steps_logged("s/width=5") < 100:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

# What is started in the background of a script ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Thread(target=interrupt, daemon=True).start()
try:
    mfrun.sweep(sys.argv[1:])
except KeyboardInterrupt as error:
    print(error)
    print(mfrun.load("s"))
"""


def test_an_interrupted_sweep_saves_and_goes_on() -> None:
    words = [*SEVERAL[:-1], "widths=[3,5]", "steps=40000"]
    command = [sys.executable, "-c", INTERRUPTED, *words, "dir=s"]
    # In a session of its own: what goes wrong here must not stop the tests.
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        start_new_session=True,
    )
    assert done.stdout.splitlines() == [
        "mfrun: stopped; the state is saved; mfrun sweep dir=s resume=true goes on from it",
        "<Sweep s: width; 0 of 2 runs done>",
    ], done.stderr
    assert "Traceback" not in done.stderr
    assert status("s/width=5")["state"] == "interrupted"
    assert "2 of 2 runs done" in repr(mfrun.sweep(["dir=s", "resume=true"]))
