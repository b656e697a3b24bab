"""A run directory: the resolved configuration, metrics.csv, checkpoints, status.

    config.yaml                  the resolved configuration
    metrics.csv                  one row an evaluation (and replicate); on disk before training goes on
    kernels-00001000.npz         kernels of the hidden layers, where evaluation.kernels asks for them
    state-00001000.safetensors   the trained arrays at step 1000
    state-00001000.json          its commit: step, checksum; written last, so that it never names an incomplete file.
                                 The newest two states stay, and those that keep_checkpoints names
    status.json                  running, finished, diverged, interrupted or failed; step, speed
    classes.json                 what the classes 0, 1, ... are called, where the data have other names
    run.log                      when it started, was evaluated, stopped and ended, a line each, for people
    run.lock                     held by the process that trains
    sweep.yaml, sweep.lock       in the folder above, where the run is part of a sweep: what was asked for, and its lock

Files are written under another name, flushed to disk and renamed; lines are added to metrics.csv, and flushed, and to
run.log.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import math
import os
import re
import socket
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from mfrun.errors import UserError, printable, typed
from mfrun.files import PARTIAL, appended, load_yaml, locked, plain, read_yaml, replacing, write_atomically
from mfrun.runs.columns import KEYS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor

CONFIG = "config.yaml"
METRICS = "metrics.csv"
STATUS = "status.json"
LOG = "run.log"
CLASSES = "classes.json"
LOCK = "run.lock"
SWEEP = "sweep.yaml"
SWEEP_LOCK = "sweep.lock"
# Hydra's own files of a run.
HYDRA = ".hydra"
DONE = ("finished", "diverged")
# The newest state and the one before it.
KEPT_STATES = 2


class RunDirectory:
    """One run's folder.

    Args:
        path: the folder; :meth:`create` makes it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock: io.TextIOWrapper | None = None

    # -- the folder -----------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether a run has been started here."""
        return (self.path / CONFIG).is_file()

    def create(self, config: dict[str, Any], classes: list[Any] | None = None) -> None:
        """Make the folder and write the configuration, and what the classes 0 .. C - 1 are called."""
        self.path.mkdir(parents=True, exist_ok=True)
        if classes is not None and classes != list(range(len(classes))):
            write_atomically(self.path / CLASSES, json.dumps(dict(enumerate(classes)), indent=1))
        write_atomically(self.path / CONFIG, OmegaConf.to_yaml(OmegaConf.create(config)))

    def lock(self) -> None:
        """Hold the folder for this process until it ends, and clear away what a killed one left half-written; once.

        Raises:
            UserError: another process trains here.
        """
        if self._lock is not None:
            return
        self._lock = locked(self.path / LOCK, _busy(self.path))
        commits = {f.stem for f in self._states()}
        uncommitted = (f for f in self.path.glob("state-*.safetensors") if f.stem not in commits)
        # safetensors writes to .tmp... first.
        for left in [*self.path.glob(f".*{PARTIAL}"), *self.path.glob(".tmp*"), *uncommitted]:
            left.unlink(missing_ok=True)
        self._prune()

    def unlock(self) -> None:
        """Let the folder go."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # -- configuration --------------------------------------------------------------------------------------------

    def config(self) -> DictConfig:
        """The resolved configuration.

        Raises:
            UserError: the file is missing or damaged.
        """
        file = self.path / CONFIG
        node = load_yaml(file)
        if "width" not in node:  # Which every run has, however old.
            raise UserError(f"{self.path}: its configuration is not one of mfrun, or damaged: {file} holds no width")
        return node

    def choices(self) -> dict[str, str]:
        """The file that was chosen of each group, as Hydra has written it; empty where it has not."""
        file = self.path / HYDRA / "hydra.yaml"
        chosen = OmegaConf.select(load_yaml(file), "hydra.runtime.choices") if file.is_file() else None
        return {str(group): str(name) for group, name in (chosen or {}).items()}

    # -- metrics --------------------------------------------------------------------------------------------------

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Add rows to metrics.csv (with its header, if it is new) and wait until they are on disk.

        A run that is older than a column goes on without it, so that every row has the columns of the header.
        """
        file = self.path / METRICS
        text = io.StringIO()
        names = _header(file) or list(rows[0])
        writer = csv.DictWriter(text, names, restval="", extrasaction="ignore", lineterminator="\n")
        if not file.exists():
            writer.writeheader()
        writer.writerows({k: _number(v) for k, v in row.items()} for row in rows)
        with appended(file) as out:
            out.write(text.getvalue())
            out.flush()
            os.fsync(out.fileno())

    def keep_rows(self, wanted: set[int]) -> None:
        """Drop the rows of other steps, and a last line that was cut off while it was written."""
        file = self.path / METRICS
        if not file.exists():
            return
        try:
            lines = file.read_text().splitlines(keepends=True)
        except ValueError as error:
            raise UserError(f"{file}: not a metrics file of mfrun; without it, the run goes on") from error
        whole = [line for line in lines if line.endswith("\n")]
        kept = whole[:1] + [line for line in whole[1:] if _step_of(line) in wanted]
        if not wanted or not whole:
            file.unlink()
        elif kept != lines:
            write_atomically(file, "".join(kept))

    def metrics(self) -> pd.DataFrame:
        """metrics.csv; empty where no row is written yet. A row that is still being written is left out.

        Raises:
            UserError: the file is not one that mfrun wrote.
        """
        import pandas as pd

        file = self.path / METRICS
        types = {"step": "int64", "t": "float64", "replicate": "int64"}
        empty = pd.DataFrame(columns=list(types)).astype(types)
        if not file.exists():
            return empty
        try:
            text = file.read_text()
            whole = text[: text.rfind("\n") + 1]
            # The disk may have been full, or the run killed, before its first row was there.
            if whole.count("\n") < 2 and _is_head(text):
                return empty
            frame = pd.read_csv(io.StringIO(whole))
            frame = frame.astype(types)
        except (ValueError, KeyError) as error:
            raise UserError(f"{file}: not a metrics file of mfrun") from error
        words = frame.select_dtypes(exclude="number").columns
        if len(words):
            raise UserError(f"{file}: not a metrics file of mfrun: column {words[0]} holds more than numbers")
        return frame

    def save_kernels(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write what was measured at a step; on disk before its row is."""
        import numpy as np

        with replacing(self.path / _kernels(step)) as temporary, temporary.open("wb") as out:
            np.savez_compressed(out, **arrays)  # type: ignore[arg-type]

    def kernels(self, step: int) -> dict[str, np.ndarray]:
        """What :meth:`save_kernels` has written.

        Raises:
            UserError: nothing of that step.
        """
        import numpy as np

        try:
            with np.load(self.path / _kernels(step), allow_pickle=False) as file:
                return dict(file)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            saved = self.kernel_steps()
            if step in saved:
                raise UserError(f"{self.path / _kernels(step)}: damaged ({error})") from error
            there = ", ".join(map(str, saved)) or "none (evaluation.kernels= asks for them)"
            raise UserError(f"{self.path}: no kernels of step {step}; there are {there}") from error

    def kernel_steps(self) -> list[int]:
        """The steps whose kernels are there, in order."""
        return sorted(map(_step_in, self.path.glob("kernels-*.npz")))

    # -- state ----------------------------------------------------------------------------------------------------

    def save_state(self, step: int, tensors: dict[str, Tensor], facts: dict[str, Any], keep: bool = False) -> None:
        """Write the trained arrays and what else a resumed run needs, atomically.

        Args:
            step: SGD updates so far.
            tensors: the trained arrays by name.
            facts: what else :meth:`load_state` is to give back.
            keep: for good; other states than these go when two newer ones are there.

        Raises:
            OSError: the disk is full, or gone.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        name = _state(step)
        file = self.path / f"{name}.safetensors"
        try:
            # Straight from the network's memory: a large network has no room for a second copy.
            with replacing(file) as temporary:
                save_file(tensors, temporary)
        except SafetensorError as error:
            # What the system says of a file is an error of its own there, with the system's number in its text.
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from error
        commit = {"step": step, "sha256": _sha256(file), "keep": keep, **facts}
        write_atomically(self.path / f"{name}.json", json.dumps(commit, indent=1))
        self._prune()

    def saved_steps(self) -> list[int]:
        """The steps of the states that are there, in order."""
        return sorted(map(_step_in, self._states()))

    def load_state(
        self, warn: Callable[[str], object], step: int | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest state that is whole, or that of one step, with its facts; None where there is none.

        Args:
            warn: told, in a line, of every damaged state that is passed over for an older one.
            step: only the state of this step will do.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        for commit in self._states():
            if step is not None and commit.stem != _state(step):
                continue
            try:
                facts = json.loads(commit.read_text())
                file = commit.with_suffix(".safetensors")
                if _sha256(file) == facts["sha256"] and _state(facts["step"]) == commit.stem:
                    return load_file(file), facts
            except (OSError, ValueError, KeyError, TypeError, SafetensorError):
                pass
            if step is None:
                warn(f"{commit.with_suffix('.safetensors')} is damaged; going back to the state before it")
        return None

    def _prune(self) -> None:
        """Remove the states that newer ones have replaced."""
        for old in self._states()[KEPT_STATES:]:
            if _kept(old):
                continue
            old.unlink(missing_ok=True)
            old.with_suffix(".safetensors").unlink(missing_ok=True)

    def _states(self) -> list[Path]:
        """Commits of the saved states, newest first."""
        return sorted(self.path.glob("state-*.json"), key=_step_in, reverse=True)

    # -- status ---------------------------------------------------------------------------------------------------

    def write_status(self, state: str, **facts: Any) -> None:
        """Say how the run stands."""
        process = {"host": socket.gethostname(), "pid": os.getpid(), "began": _began(os.getpid())}
        status = {"state": state, **process, "updated": time.time(), **facts}
        write_atomically(self.path / STATUS, json.dumps({k: _json_safe(v) for k, v in status.items()}, indent=1))

    def log(self, line: str) -> None:
        """Add a line to run.log; one that cannot be written is no reason to stop."""
        with suppress(OSError, UserError), appended(self.path / LOG) as out:
            out.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")

    def status(self) -> dict[str, Any]:
        """How the run stands. A run whose process is gone is ``killed``; one whose file says nothing, ``unknown``."""
        try:
            text = (self.path / STATUS).read_text()
        except (OSError, ValueError):
            return {"state": "new" if self.exists() else "waiting"}
        try:
            status = json.loads(text)
            state, host, pid = status["state"], status["host"], int(status["pid"])
        except (ValueError, KeyError, TypeError):
            return {"state": "unknown"}
        if not isinstance(state, str):
            return {"state": "unknown"}
        if state == "running":
            began = status.get("began")
            if host == socket.gethostname():
                gone = not _alive(pid, began)
            else:  # In a container, this machine has another name; of other machines nobody can tell.
                gone = str(began).partition("/")[0] == _boot() and self.free()
            status["state"] = "killed" if gone else state
        return dict(status)

    def free(self) -> bool:
        """Whether there is a lock that no process of this machine holds; of others, not every file system knows."""
        try:
            with (self.path / LOCK).open() as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def done(self) -> bool:
        """Whether nothing is left to train."""
        return self.status()["state"] in DONE


def find_runs(path: str | os.PathLike[str], waiting: bool = False) -> Iterator[RunDirectory]:
    """The run in ``path``, or all runs below it, in the order of their names.

    Args:
        path: the folder.
        waiting: with the runs of sweeps that have not begun.

    Raises:
        UserError: there is none.
    """
    root = Path(path)
    if not root.exists():
        raise UserError(f"{root}: no such folder")
    found, sweeps = _below(root)
    if waiting:
        for sweep in sweeps:
            found |= {sweep / str(name) for name in (read_sweep(sweep) or {}).get("runs") or []}
    if not found and root.name != HYDRA and RunDirectory(root).exists():
        found = {root}  # Named outright: what is wrong with its configuration is told by who reads it.
    if not found:
        raise UserError(f"{root}: no run here (a run has a {CONFIG} and a {METRICS})")
    return iter([RunDirectory(p) for p in sorted(found, key=_as_read)])


def _below(root: Path) -> tuple[set[Path], set[Path]]:
    """The folders of all runs from a folder on, and those of all sweeps.

    In that of a run there is no other, though loggers and Hydra may keep files of the same names there. What links lead
    to comes last, so that a folder that lies below ``root`` itself is called by its place there.
    """
    runs, sweeps, seen = set[Path](), set[Path](), set[str]()
    starts = [root]
    for start in starts:  # It grows meanwhile.
        for where, folders, files in os.walk(start):
            folder, real = Path(where), os.path.realpath(where)
            if real in seen:  # Links may lead back, or twice to one folder.
                folders.clear()
                continue
            seen.add(real)
            if SWEEP in files:
                sweeps.add(folder)
            if _is_run(folder, {*folders, *files}):
                runs.add(folder)
                folders.clear()
            starts += [folder / name for name in sorted(folders) if (folder / name).is_symlink()]
    return runs, sweeps


def _is_run(folder: Path, names: set[str]) -> bool:
    """Whether a folder that holds these names is a run's: other programs' projects have a config.yaml, too."""
    if CONFIG not in names or folder.name == HYDRA:
        return False
    if not names.isdisjoint((METRICS, STATUS, LOCK, HYDRA)):
        return True
    with suppress(UserError):
        return "width" in plain(load_yaml(folder / CONFIG))
    return False


def _as_read(path: Path) -> list[tuple[int, float, str]]:
    """A key that sorts names as people do: width=10 after width=9, and width=inf after both."""
    words = re.split(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", str(path))
    return [(0, float(word), "") if i % 2 else (1, 0.0, word) for i, word in enumerate(words)]


def newest(root: str = "outputs", sweeps: bool | None = None) -> Path:
    """The run or sweep under ``root`` that was started last.

    Args:
        root: the folder to look through.
        sweeps: only sweeps, or only runs that are not one of a sweep.

    Raises:
        UserError: there is none.
    """
    found = set[Path]().union(*_below(Path(root)))
    tops = {(folder.parent if (folder.parent / SWEEP).exists() else folder) for folder in found}
    if sweeps is not None:
        tops = {top for top in tops if (top / SWEEP).exists() == sweeps}
    if not tops:
        raise UserError(f"{root}: no {'sweep' if sweeps else 'run'} here yet")
    return max(tops, key=lambda p: (p / SWEEP if (p / SWEEP).exists() else p / CONFIG).stat().st_mtime)


@contextmanager
def hold_sweep(path: Path, resume: bool) -> Iterator[None]:
    """Hold a sweep's folder, which is made, for this process; the runs in it have locks of their own.

    Args:
        path: the folder.
        resume: go on with the sweep that it may hold.

    Raises:
        UserError: another process sweeps here, or has done so and ``resume`` is false.
    """
    path.mkdir(parents=True, exist_ok=True)
    with locked(path / SWEEP_LOCK, _busy(path)):
        if not resume and (path / SWEEP).exists():
            raise UserError(f"dir={path}: holds a sweep already; resume=true goes on with it")
        yield


def write_sweep(path: Path, facts: dict[str, Any]) -> None:
    """Record what a sweep was asked to do, so that it can be resumed."""
    path.mkdir(parents=True, exist_ok=True)
    write_atomically(path / SWEEP, OmegaConf.to_yaml(OmegaConf.create(facts)))


def read_sweep(path: Path) -> dict[str, Any] | None:
    """What :func:`write_sweep` recorded; None where no sweep was started.

    Raises:
        UserError: the file is damaged.
    """
    file = path / SWEEP
    if not file.is_file():
        return None
    found = plain(load_yaml(file))
    lists = [key for key in ("overrides", "swept", "runs") if found.get(key) is not None]
    return found | {key: listed(found[key], f"{file}: {key}") for key in lists}


def read_words(run_dir: Path) -> list[str] | None:
    """The words that a run was started with, as Hydra has recorded them; None where it has not.

    Raises:
        UserError: the file is damaged.
    """
    file = run_dir / HYDRA / "overrides.yaml"
    if not file.is_file():
        return None
    saved = read_yaml(file)
    return listed(OmegaConf.to_container(saved) if OmegaConf.is_config(saved) else saved, file)


def listed(saved: object, where: Path | str) -> list[str]:
    """The words that a file holds, in whole or under a key.

    Raises:
        UserError: it holds something else.
    """
    if not isinstance(saved, list):
        raise UserError(f"{where}: {printable(typed(saved))[:60]}: must be a list of words")
    return [str(word) for word in saved]


def _busy(folder: Path) -> str:
    return f"dir={folder}: another process is training in this folder"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _state(step: int) -> str:
    return f"state-{step:08d}"


def _kernels(step: int) -> str:
    return f"kernels-{step:08d}.npz"


def _step_in(file: Path) -> int:
    """Of a name; -1 where it holds none, as that of a file of somebody else's."""
    number = file.stem.partition("-")[2]
    return int(number) if number.isdigit() else -1


def _kept(commit: Path) -> bool:
    """Whether a state was saved for good."""
    try:
        return bool(json.loads(commit.read_text()).get("keep"))
    except (OSError, ValueError):
        return False


def _header(file: Path) -> list[str]:
    """The names of a CSV file's columns; none where there is no file."""
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        return next(csv.reader(lines), [])


def _is_head(text: str) -> bool:
    """Whether a text is the beginning of a metrics.csv, which may be cut off in its header."""
    start = ",".join(KEYS[:3])
    return text[: len(start)] == start[: len(text)]


def _number(value: Any) -> Any:
    return format(value, ".10g") if isinstance(value, float) else value


def _json_safe(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _step_of(line: str) -> int | None:
    first = line.split(",", 1)[0]
    return int(first) if first.isdigit() else None


def _alive(pid: int, began: str | None) -> bool:
    """Whether the process is there, and not another one that has got its number since."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    now = _began(pid)
    return now != "ended" and (began is None or now in (began, None))


def _began(pid: int) -> str | None:
    """When a process has begun, told apart from any other time this or another machine was on; None for unknown."""
    try:
        # The name of a process, which stands in parentheses, may hold anything.
        state, *facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = facts[18]
        if state == "Z":  # It is dead, and its parent has not asked for it yet.
            return "ended"
        boot = _boot()
        return f"{boot}/{ticks}" if boot else None
    except (OSError, IndexError):
        return None


def _boot() -> str | None:
    """What tells this time that this machine is on from any other, and from other machines; None for unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
