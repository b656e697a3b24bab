"""mfrun inside a longer session: what it leaves behind, and what of it can be kept, copied and sent on."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pandas as pd
import pytest
import torch
from commands import ARRAYS, TINY, here, steps_logged
from formats import write_arrays
from hydra.core.global_hydra import GlobalHydra

import mfrun
from mfrun.config import validated
from mfrun.dynamics.experiment import assemble
from mfrun.dynamics.steps import Eager, Graphed
from mfrun.errors import UserError
from mfrun.networks.products import arrange, switches_kept
from mfrun.shell.compose import compose

SEVERAL = ["threads=1", *TINY[2:], "steps=5"]


def switches() -> list[Any]:
    backends: Any = torch.backends
    cudnn = backends.cudnn
    precisions = [backends.mkldnn.matmul, backends.cuda.matmul, cudnn.conv]
    return [*(switch.fp32_precision for switch in precisions), cudnn.deterministic]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_caller_s_products_stay_what_they_were(precision: str) -> None:
    before = switches()
    run = mfrun.train([*TINY, "steps=2", f"precision={precision}", "dir=r"])
    assert switches() == before
    run.predict(np.zeros((2, 3)))
    run.hidden(np.zeros((2, 3)), 1)
    assert switches() == before
    mfrun.load("r").network()
    assert switches() == before
    write_arrays(Path("a.npz"))
    mfrun.train([*ARRAYS, "steps=2", f"precision={precision}", "dir=of_a_set"]).features(1)
    assert switches() == before
    with switches_kept():
        arrange("tf32", torch.device("cuda"), 100)
        assert switches() != before
    assert switches() == before
    # torch refuses to answer where its older switches and its newer ones have been mixed.
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cudnn.allow_tf32 in (True, False)


def test_predictions_are_made_as_the_run_was_trained() -> None:
    """By the products that its own configuration asks for, whatever has been trained since."""
    run = mfrun.train([*TINY, "width=300", "steps=1", "dir=a"])
    x = np.random.default_rng(0).normal(size=(50, 3))
    first = run.predict(x).yhat
    mfrun.train([*TINY, "steps=1", "precision=bf16", "dir=b"])
    np.testing.assert_array_equal(run.predict(x).yhat, first)


def test_ctrl_c_does_not_stop_what_a_thread_trains_later() -> None:
    def interrupt() -> None:
        while steps_logged("long") < 1:
            threading.Event().wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        mfrun.train([*TINY, "steps=100000000", "dir=long"])
    trained = list[mfrun.Run]()
    thread = threading.Thread(target=lambda: trained.append(mfrun.train([*TINY, "steps=5", "dir=short"])))
    thread.start()
    thread.join()
    assert [run.status["state"] for run in trained] == ["finished"]


def test_a_program_keeps_its_own_hydra(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/mine.yaml").write_text("a: 1\n")
    with hydra.initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        assert hydra.compose("mine").a == 1
        mfrun.train([*TINY, "steps=1", "dir=r"])
        with pytest.raises(UserError):
            mfrun.train([*TINY, "stops=1"])
        assert hydra.compose("mine", ["a=2"]).a == 2
    assert not GlobalHydra.instance().is_initialized()


def test_yaml_files_come_and_go_in_a_session() -> None:
    Path("mine/activation").mkdir(parents=True)
    Path("mine/activation/one.yaml").write_text("name: tanh\n")
    words = ["--config-dir", "mine", *TINY, "steps=1"]
    mfrun.train([*words, "activation=one", "dir=a"])
    Path("mine/activation/two.yaml").write_text("name: relu\n")
    assert mfrun.train([*words, "activation=two", "dir=b"]).config["activation"]["name"] == "relu"
    Path("mine/activation/two.yaml").unlink()
    with pytest.raises(UserError, match="activation=two: unknown; one of "):
        mfrun.train([*words, "activation=two", "dir=c"])


def test_a_sweep_over_a_group_of_one_s_own(capfd: pytest.CaptureFixture[str]) -> None:
    """Its options name the folders; those in a folder below the group's are options, too."""
    Path("mine/setting/deep").mkdir(parents=True)
    for name, alpha in {"a": 0.1, "b": 0.2, "deep/c": 0.3}.items():
        Path(f"mine/setting/{name}.yaml").write_text(f"# @package _global_\nalpha: {alpha}\n")
    words = ["--config-dir", "mine", *SEVERAL, "widths=[3]"]
    assert here("sweep", *words, "+setting=a,b,deep/c", "dir=s", "--dry-run") == 0
    assert here("sweep", *words, "+setting=a,b,deep/c", "dir=s") == 0
    runs = sorted(mfrun.load("s"), key=lambda run: run.config["alpha"])
    assert [run.config["alpha"] for run in runs] == [0.1, 0.2, 0.3]
    assert [run.path.name for run in runs[:2]] == ["width=3,setting=a", "width=3,setting=b"]
    assert all(run.path.parent == Path("s").absolute() for run in runs)
    assert here("sweep", "--config-dir", "mine", "dir=s", "resume=true") == 0
    capfd.readouterr()
    assert here("sweep", *SEVERAL, "widths=[3]", "logger=[csv],[tensorboard]", "dir=t") == 2
    said = "logger=[csv],[tensorboard]: a sweep takes one option of a group for each run, logger=A,B"
    assert capfd.readouterr().err == f"mfrun: {said}\n"


def test_results_can_be_pickled_and_copied() -> None:
    assert here("sweep", *SEVERAL, "widths=[3,4]", "alpha=0.1,0.2", "dir=s") == 0
    sweep = mfrun.load("s")
    assert isinstance(sweep, mfrun.Sweep)
    for again in (pickle.loads(pickle.dumps(sweep)), copy.deepcopy(sweep)):
        pd.testing.assert_frame_equal(again.frame, sweep.frame)
    figure = mfrun.plot(sweep)
    again = pickle.loads(pickle.dumps(figure))
    again.canvas.draw()
    assert len(again.axes) == len(figure.axes)


def test_labels_of_bytes_are_the_texts_that_they_spell() -> None:
    write_arrays(Path("a.npz"))
    with np.load("a.npz") as held:
        arrays = dict(held)
    for split in ("train", "test"):
        arrays[f"y_{split}"] = np.array(["Katze", "Hündin"])[arrays[f"y_{split}"] % 2]
    np.savez("texts.npz", **arrays)
    for split in ("train", "test"):
        arrays[f"y_{split}"] = np.char.encode(arrays[f"y_{split}"], "utf-8")
    np.savez("bytes.npz", **arrays)
    for name in ("texts", "bytes"):
        mfrun.train([*ARRAYS, "steps=2", f"dataset.path={name}.npz", f"dir={name}"])
    assert Path("texts/classes.json").read_text() == Path("bytes/classes.json").read_text()
    assert "Katze" in Path("bytes/classes.json").read_text()


@pytest.mark.parametrize("own", [False, True])
def test_parts_of_one_s_own_are_not_recorded(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may look at values, which a CUDA graph does not; which steps there are can be asked without a GPU."""
    Path("zz.py").write_text("import torch\n\n\ndef f(h):\n    return torch.tanh(h)\n")
    monkeypatch.syspath_prepend(".")
    words = [*TINY, f"activation.name={'zz:f' if own else 'tanh'}"]
    experiment = assemble(validated(compose(words, [])))
    experiment = replace(experiment, blueprint=replace(experiment.blueprint, device=torch.device("cuda")))
    assert experiment.kind_of_steps is (Eager if own else Graphed)
