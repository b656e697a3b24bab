"""``logger=wandb`` and ``logger=mlflow``: a run's metrics in an experiment tracker.

A run is called there what it is called here, a sweep is a group, and each replicate is a run of its own. A run that
goes on is the same run there: what the tracker has already is not sent again, and what it lacks is.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mfrun.config import flatten
from mfrun.errors import ConfigError
from mfrun.files import appended, plain, write_atomically
from mfrun.registry import register
from mfrun.runs.columns import KEYS
from mfrun.runs.directory import RunDirectory
from mfrun.runs.loggers import Logger, Row

MODES = ("online", "offline", "disabled")


@register("logger", "wandb")
@dataclass
class WandB(Logger):
    """Weights & Biases; its files lie in the run's folder.

    Online, a run that goes on sends what the server lacks. Offline, its files are written anew from metrics.csv, so
    that ``wandb sync`` uploads the whole run at once; only then do those of before go.

    Attributes:
        project, entity, tags: as W&B has them.
        group: what groups runs; None for the sweep's folder.
        mode: online, offline or disabled; None for ``WANDB_MODE``, which is online where it is not set.
    """

    project: str = "mfrun"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    mode: str | None = None

    def __post_init__(self) -> None:
        _needs("wandb", "wandb")
        if self.mode is not None and self.mode not in MODES:
            raise ConfigError("mode", self.mode, f"one of {', '.join(MODES)}, or null")

    def start(self, folder: Path, rows: Sequence[Row]) -> None:
        self._folder, self._runs, self._ended = folder, dict[int, Any](), False
        self.log(rows)

    def log(self, rows: Sequence[Row]) -> None:
        several = any(row["replicate"] for row in rows)
        for row in rows:
            r, step = int(row["replicate"]), int(row["step"])
            if r not in self._runs:
                self._runs[r] = self._begin(r, several)
            run, first = self._runs[r]
            if step >= first:
                values = {key: value for key, value in row.items() if key not in ("step", "replicate")}
                run.log(values, step=step, commit=True)

    def finish(self, folder: Path) -> None:
        self._ended = True
        for run, _ in self._runs.values():
            run.summary["state"] = RunDirectory(folder).status()["state"]

    def close(self) -> None:
        for run, _ in self._runs.values():
            run.finish(exit_code=0 if self._ended else 1)

    def _begin(self, replicate: int, several: bool) -> tuple[Any, int]:
        """The tracker's run, and the first step that it lacks."""
        import wandb

        name, group = _named(self._folder, replicate, several)
        place = self._folder / f"replicate={replicate}" if several else self._folder
        for where in (place, place / "wandb"):
            if where != self._folder and where.is_symlink():
                raise OSError(f"{where} is a link, which may lead out of the run's folder")
        place.mkdir(exist_ok=True)
        # A folder there is called [offline-]run-DATE-ID.
        old = sorted(place.glob("wandb/*run-*-*"), key=lambda path: path.name.removeprefix("offline-"))
        config = plain(RunDirectory(self._folder).config())
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group or group,
            tags=self.tags or None,
            mode=self.mode,  # type: ignore[arg-type]
            id=old[-1].name.rsplit("-", 1)[1] if old else None,
            resume="allow",
            reinit="create_new",
            name=name,
            dir=place.resolve(),
            config={**config, "replicate": replicate},
            settings=wandb.Settings(silent=True, console="off", save_code=False, disable_git=True),
        )
        # Only files that are written anew take the place of older ones: nobody may have sent those yet.
        for folder in old if run.offline else []:
            if folder.name.startswith("offline-") and folder != Path(run.dir).parent:
                shutil.rmtree(folder)
        return run, run.step


@register("logger", "mlflow")
@dataclass
class MLflow(Logger):
    """MLflow, on a server or in a data base. ``mlflow.json`` in the run's folder holds the ids of its runs there.

    Attributes:
        experiment: where runs are listed.
        uri: ``https://...`` or ``sqlite:///FILE.db``; None for ``MLFLOW_TRACKING_URI`` or MLflow's default.
    """

    experiment: str = "mfrun"
    uri: str | None = None

    def __post_init__(self) -> None:
        _needs("mlflow", "mlflow")

    def start(self, folder: Path, rows: Sequence[Row]) -> None:
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # It tells of every table of a new data base.
        with _one_at_a_time():
            self._client = MlflowClient(tracking_uri=self.uri)
            found = self._client.get_experiment_by_name(self.experiment)
            self._experiment = found.experiment_id if found else self._client.create_experiment(self.experiment)
        self._folder, self._runs, self._status = folder, dict[int, str](), "KILLED"
        self._began = time.time() - max((row["wall_seconds"] for row in rows), default=0.0)
        self._has: dict[int, Mapping[str, set[int]]] = {}
        self.log(rows)

    def log(self, rows: Sequence[Row]) -> None:
        from mlflow.entities import Metric

        several = any(row["replicate"] for row in rows)
        for r in sorted({int(row["replicate"]) for row in rows}):
            mine = [row for row in rows if int(row["replicate"]) == r]
            if r not in self._runs:
                self._runs[r] = self._begin(r, several, [key for key in mine[0] if key not in KEYS])
            metrics = [
                Metric(key, float(value), int(1000 * (self._began + row["wall_seconds"])), int(row["step"]))
                for row in mine
                for key, value in row.items()
                if key not in KEYS and int(row["step"]) not in self._has[r].get(key, ())
            ]
            for i in range(0, len(metrics), 1000):  # MLflow takes no more at once.
                self._client.log_batch(self._runs[r], metrics=metrics[i : i + 1000])

    def finish(self, folder: Path) -> None:
        self._status = "FINISHED" if RunDirectory(folder).status()["state"] == "finished" else "FAILED"

    def close(self) -> None:
        for run in self._runs.values():
            self._client.set_terminated(run, status=self._status)

    def _begin(self, replicate: int, several: bool, metrics: list[str]) -> str:
        """The id of the tracker's run; the steps of each metric that it has are noted."""
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        # An address may hold a password, and a run's folder is passed on.
        at = hashlib.sha256(self._client.tracking_uri.encode()).hexdigest()[:16]
        file = self._folder / "mlflow.json"
        known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        ids: dict[str, str] = known.get("runs", {}) if known.get("server") == at else {}
        if str(replicate) in ids:
            run = ids[str(replicate)]
            try:
                self._client.update_run(run, status="RUNNING")
            except MlflowException:  # It has been deleted there.
                pass
            else:
                history = self._client.get_metric_history
                self._has[replicate] = {key: {point.step for point in history(run, key)} for key in metrics}
                return run
        name, group = _named(self._folder, replicate, several)
        tags = {"mfrun.folder": str(self._folder.resolve())} | ({"mfrun.sweep": group} if group else {})
        run = self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id
        config = flatten(plain(RunDirectory(self._folder).config())) | {"replicate": replicate}
        self._client.log_batch(run, params=[Param(key, str(value)[:6000]) for key, value in config.items()])
        write_atomically(file, json.dumps({"server": at, "runs": {**ids, str(replicate): run}}, indent=2) + "\n")
        self._has[replicate] = {}
        return run


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Wait for the runs beside this one: MLflow makes the tables of a new data base in two processes at once."""
    lock = appended(Path(tempfile.gettempdir(), f"mfrun-mlflow-{os.getuid()}.lock"))
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _needs(package: str, extra: str) -> None:
    if find_spec(package) is None:
        why = f"needs a package that is not here; pip install 'mfrun[{extra}]'"
        raise ConfigError("name", package, why)


def _named(folder: Path, replicate: int, several: bool) -> tuple[str, str | None]:
    """What a run is called, and the folder of its sweep where there is one."""
    where = folder.resolve()
    inside = (where.parent / "sweep.yaml").exists()
    name = where.name if inside else str(folder)
    return f"{name}/replicate={replicate}" if several else name, str(where.parent) if inside else None
