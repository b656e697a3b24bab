"""What trackers hold, read back by their own readers and held to metrics.csv; loggers that fail."""

from __future__ import annotations

import io
import json
import resource
import signal
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from commands import LIMIT, TINY, curves, here, rows, start, status, steps_logged, wait_until

BOARD = [*TINY, "logger=tensorboard"]


@pytest.fixture
def reader():
    """The scalars by tag, [(step, value)], and the images by tag of a folder."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def read(path: str | Path) -> tuple[dict[str, list[tuple[int, float]]], dict[str, np.ndarray]]:
        events = module.EventAccumulator(str(path), size_guidance={module.SCALARS: 0, module.IMAGES: 0}).Reload()
        tags = events.Tags()
        images = {}
        for tag in tags["images"]:
            (image,) = events.Images(tag)
            images[tag] = matplotlib.image.imread(io.BytesIO(image.encoded_image_string))
            assert images[tag].shape == (image.height, image.width, 4)
        return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]}, images

    return read


def logged(run: str, replicate: int = 0) -> dict[str, list[tuple[int, float]]]:
    """metrics.csv in the same form; TensorBoard keeps float32."""
    mine = [r for r in rows(run) if int(r["replicate"]) == replicate]
    metrics = [c for c in mine[0] if c not in ("step", "t", "replicate", "wall_seconds")]
    return {c: [(int(r["step"]), pytest.approx(float(r[c]), rel=1e-6, nan_ok=True)) for r in mine] for c in metrics}


def test_csv_writes_nothing_more() -> None:
    assert here("train", *TINY, "steps=5", "logger=csv", "dir=r") == 0
    assert not list(Path("r").rglob("events*"))
    assert "logger" not in Path("r/config.yaml").read_text()


def test_scalars_and_figure(reader) -> None:
    """Each replicate's metrics, the limit's bars among them; the same curves as without."""
    assert here("train", *BOARD, *LIMIT, "width=inf", "steps=20", "dir=r") == 0
    scalars, images = reader("r")
    assert scalars == logged("r")
    assert "population_loss_bar" in scalars
    assert list(images) == ["curves"]
    assert np.ptp(images["curves"]) > 0.5
    assert here("train", *BOARD, "replicates=2", "steps=20", "logger.tensorboard.figure=false", "dir=two") == 0
    assert [reader(f"two/replicate={r}") for r in (0, 1)] == [(logged("two", r), {}) for r in (0, 1)]
    assert logged("two", 0) != logged("two", 1)
    assert here("train", *TINY, "replicates=2", "steps=20", "dir=plain") == 0
    assert curves("two") == curves("plain")


def test_resumed_and_diverged(reader) -> None:
    """No point twice, and those from before the logger was asked for."""
    assert here("train", *TINY, "steps=20", "dir=r") == 0
    for steps in (50, 120):
        assert here("train", "dir=r", "resume=true", f"steps={steps}", "logger=tensorboard") == 0
        scalars, images = reader("r")
        assert scalars == logged("r")
        assert list(images) == ["curves"]
    assert len(list(Path("r").glob("events*"))) == 1
    # ... and a reader that has met both files forgets the first one.
    event = next(Path("r").glob("events*"))
    event.with_name(event.name.replace("2.mfrun", "1.mfrun")).write_bytes(event.read_bytes())
    assert reader("r")[0] == logged("r")
    assert here("train", *BOARD, "alpha=1e6", "steps=5000", "dir=d") == 3
    assert reader("d")[0] == logged("d")


def test_killed(reader) -> None:
    """kill -9, twice; the rest of the run is in test_faults.py, without a logger."""
    long = ["steps=3000", "checkpoint_seconds=0.01"]
    process = start("train", *BOARD, *long, "dir=r", hold=1500)
    wait_until(lambda: steps_logged("r") >= 100, process)
    process.kill()
    process.communicate()
    assert here("train", "dir=r", "resume=true") == 0
    assert reader("r")[0] == logged("r")
    assert here("train", *TINY, *long, "dir=straight") == 0
    assert curves("r") == curves("straight")


def test_sweep(reader) -> None:
    """Processes side by side, each with files of its own; the overlay lies above them."""
    assert here("sweep", *BOARD[3:], "depth=3", "threads=2", "widths=[3,5]", "steps=20", "dir=s") == 0
    for n in (3, 5):
        assert reader(f"s/width={n}")[0] == logged(f"s/width={n}")
    assert here("sweep", "dir=s", "resume=true", "widths=[3,5,6]") == 0
    assert reader("s/width=6")[0] == logged("s/width=6")
    scalars, images = reader("s")
    assert (scalars, list(images)) == ({}, ["curves"])


def test_event_files_that_cannot_grow(reader, capfd: pytest.CaptureFixture[str]) -> None:
    """RLIMIT_FSIZE stands for a full disk: enough for every file of the run, too little for all of its events."""
    words = ["steps=150", "evaluation.points_per_decade=100"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12000, before[1]))
    try:
        assert here("train", *BOARD, *words, "dir=r") == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    err = capfd.readouterr().err
    assert err.count("n=4  logger=tensorboard: OSError: [Errno 27] File too large; it is left out from here on\n") == 1
    assert here("train", *TINY, *words, "dir=straight") == 0
    assert curves("r") == curves("straight")
    written = reader("r")[0]["population_loss"]
    assert 10 < len(written) < len(curves("r"))
    assert here("train", "dir=r", "resume=true", "steps=151") == 0
    assert reader("r")[0] == logged("r")


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_missing_package(command: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ["tensorboard", *(m for m in sys.modules if m.startswith("tensorboard."))]:
        monkeypatch.setitem(sys.modules, module, None)
    assert here(command, *BOARD, "steps=5", "dir=r") == 2
    err = capfd.readouterr().err
    assert err.startswith("mfrun: logger.tensorboard.name=tensorboard: needs a package that is not here; pip install")
    assert "'mfrun[tensorboard]'" in err
    assert err.count("\n") == 1
    assert not Path("r").exists()


@pytest.fixture
def tracked(monkeypatch: pytest.MonkeyPatch) -> Tracked:
    """W&B and MLflow as they are, without a network."""
    pytest.importorskip("wandb")
    pytest.importorskip("mlflow")
    monkeypatch.setenv("WANDB_MODE", "offline")
    # A process that has used W&B passes its service on to those that it starts; a shell has used none.
    monkeypatch.delenv("WANDB_SERVICE", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path.cwd()}/mlflow.db")
    return Tracked()


class Tracked:
    """The points of a run in the trackers, as :func:`logged` has metrics.csv's; every point, also one sent twice."""

    words = ("logger=[wandb,mlflow]",)

    def wandb(self, run: str, replicate: int | None = None) -> dict[str, list[tuple[int, float]]]:
        (folder,) = Path(run, "" if replicate is None else f"replicate={replicate}", "wandb").glob("offline-run-*")
        (file,) = folder.glob("*.wandb")
        points: dict[str, list[tuple[int, float]]] = {}
        for record in self.records(file.read_bytes()):
            values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for key, value in values.items():
                if key[0] != "_" and key not in ("t", "wall_seconds"):
                    points.setdefault(key, []).append((int(values["_step"]), float(value)))
        return points

    @staticmethod
    def records(data: bytes):
        """The messages in a file of W&B: LevelDB's log, pieces of blocks of 32 KiB with a header of 7 bytes each."""
        from wandb.proto.wandb_internal_pb2 import Record

        at, whole = 7, b""
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:  # What is left of a block is too small for a header.
                at += 32768 - at % 32768
                continue
            length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
            whole += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # Whole, or the last piece.
                record = Record()
                record.ParseFromString(whole)
                whole = b""
                if record.WhichOneof("record_type") == "history":
                    yield record

    def mlflow(self, run: str, replicate: int = 0) -> dict[str, list[tuple[int, float]]]:
        from mlflow import MlflowClient

        client = MlflowClient()
        name = json.loads(Path(run, "mlflow.json").read_text())["runs"][str(replicate)]
        metrics = client.get_run(name).data.metrics
        return {key: sorted((p.step, p.value) for p in client.get_metric_history(name, key)) for key in metrics}


def test_trackers(tracked: Tracked) -> None:
    """Two at once; a run that goes on; every replicate; metrics.csv is what it is without."""
    import mlflow

    assert here("train", *TINY, "replicates=2", "steps=20", *tracked.words, "dir=r") == 0
    assert here("train", *TINY, "replicates=2", "steps=20", "dir=plain") == 0
    assert curves("r") == curves("plain")
    assert here("train", "dir=r", "resume=true", "steps=50", *tracked.words) == 0
    for replicate in (0, 1):
        assert tracked.wandb("r", replicate) == logged("r", replicate)
        assert tracked.mlflow("r", replicate) == logged("r", replicate)
    known = mlflow.MlflowClient().get_run(json.loads(Path("r/mlflow.json").read_text())["runs"]["1"])
    assert known.info.status == "FINISHED"
    assert known.info.run_name == "r/replicate=1"
    assert (known.data.params["width"], known.data.params["replicate"]) == ("4", "1")
    # Asked for late, it is told of all that there was.
    assert here("train", "dir=plain", "resume=true", "steps=50", *tracked.words) == 0
    assert tracked.wandb("plain", 0) == logged("plain")
    assert tracked.mlflow("plain") == logged("plain")


def test_files_that_nobody_has_sent_stay_until_others_replace_them(tracked: Tracked) -> None:
    assert here("train", *TINY, "steps=20", "logger=wandb", "dir=r") == 0
    before = logged("r")
    words = ["logger=wandb", "dir=r", "resume=true"]
    assert here("train", *words, "logger.wandb.mode=disabled", "steps=50") == 0
    assert tracked.wandb("r") == before
    assert here("train", *words, "logger.wandb.mode=offline", "steps=60") == 0
    assert len(list(Path("r/wandb").glob("offline-run-*"))) == 1


def test_trackers_of_a_run_that_is_killed(tracked: Tracked) -> None:
    """By the keyboard, then for good: no point is there twice, and none is missing."""
    long = ["steps=3000", "checkpoint_seconds=0.01"]
    process = start("train", *TINY, *long, *tracked.words, "dir=r", hold=1000)
    wait_until(lambda: steps_logged("r") >= 30, process)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    process = start("train", *tracked.words, "dir=r", "resume=true", hold=2000)
    wait_until(lambda: steps_logged("r") >= 300, process)
    process.kill()
    process.communicate()
    assert here("train", "dir=r", "resume=true", *tracked.words) == 0
    assert tracked.wandb("r") == logged("r")
    assert tracked.mlflow("r") == logged("r")


def test_trackers_of_a_sweep(tracked: Tracked) -> None:
    """Processes side by side, which make one data base; a group for the sweep."""
    assert here("sweep", *TINY[2:], "threads=2", "widths=[3,5]", "steps=20", *tracked.words, "dir=s") == 0
    for n in (3, 5):
        assert tracked.wandb(f"s/width={n}") == logged(f"s/width={n}")
        assert tracked.mlflow(f"s/width={n}") == logged(f"s/width={n}")


def test_a_tracker_that_does_not_answer(tracked: Tracked, capfd: pytest.CaptureFixture[str]) -> None:
    assert here("train", *TINY, "steps=5", "logger=mlflow", "logger.mlflow.uri=sqlite:////dev/null/no.db", "dir=r") == 0
    assert "n=4  logger=mlflow: " in capfd.readouterr().err
    assert here("train", *TINY, "logger=wandb", "logger.wandb.mode=on", "dir=q") == 2
    err = capfd.readouterr().err
    assert err == "mfrun: logger.wandb.mode=on: one of online, offline, disabled, or null\n"


OWN = '''
from dataclasses import dataclass
from pathlib import Path
import json
from mfrun.runs.loggers import Logger

@dataclass
class Lines(Logger):
    """A user's own."""
    fails_at: int = -1

    def start(self, folder, rows):
        self.file = folder / "own.jsonl"
        self.file.write_text("".join(json.dumps(dict(r)) + "\\n" for r in rows))

    def log(self, rows):
        if rows[0]["step"] == self.fails_at:
            raise RuntimeError("no luck")
        with self.file.open("a") as out:
            out.writelines(json.dumps(dict(r)) + "\\n" for r in rows)
'''


def test_a_logger_of_one_s_own(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A class and a YAML file. Where it fails, the run goes on without it and says so in a line."""
    Path("own_logger.py").write_text(OWN)
    Path("conf/logger").mkdir(parents=True)
    Path("conf/logger/lines.yaml").write_text("# lines of JSON\nname: own_logger:Lines\nfails_at: -1\n")
    monkeypatch.syspath_prepend(".")
    words = ["--config-dir", "conf", "logger=lines"]
    assert here("train", *TINY, "steps=20", "dir=r", *words) == 0
    assert here("train", "dir=r", "resume=true", "steps=50", *words) == 0

    def own() -> list[tuple[int, float]]:
        lines = [json.loads(line) for line in Path("r/own.jsonl").read_text().splitlines()]
        return [(row["step"], pytest.approx(row["population_loss"], rel=1e-9)) for row in lines]

    assert own() == [(int(r["step"]), float(r["population_loss"])) for r in rows("r")]
    capfd.readouterr()
    assert here("train", *TINY, "steps=50", "dir=f", "logger.fails_at=10", *words) == 0
    err = capfd.readouterr().err
    assert err.count("n=4  logger=own_logger:Lines: RuntimeError: no luck; it is left out from here on\n") == 1
    assert Path("f/own.jsonl").read_text().count("\n") == sum(int(r["step"]) < 10 for r in rows("f"))
    assert curves("f") == curves("r")
    assert status("f")["state"] == "finished"
