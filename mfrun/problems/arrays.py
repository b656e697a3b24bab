"""The user's own data: arrays in an .npz, or a table in CSV or Parquet, with labels as they come."""

from __future__ import annotations

import csv
import re
import zipfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from mfrun.errors import ConfigError
from mfrun.problems.problem import CHUNK, FiniteProblem, Problem
from mfrun.problems.tasks import Task
from mfrun.registry import reason, register
from mfrun.seeds import entropy

SPLITS = ("train", "test")
# Arrays of an .npz that are read; whatever else it holds is the user's own affair.
ARRAYS = ("x", "y", "x_train", "y_train", "x_test", "y_test")


@register("dataset", "arrays")
@dataclass
class Arrays:
    """The user's own data in one file.

    ``.npz``: x_train, y_train, x_test, y_test, or without a test set; x is one sample a row, or images (N, H, W, C),
    all axes but the first being flattened; uint8 is scaled to [-1, 1], floats are kept. ``.csv``, ``.tsv``,
    ``.parquet``: one sample a row; ``target`` names the column (or the columns) of the labels, and the others are the
    inputs.

    Labels: -1 and +1 are signs, other floats are regression targets, integers and texts are classes, numbered in their
    order.

    Attributes:
        path: the file.
        task: ``auto`` (by the labels, as above), ``sign``, ``classes`` or ``regression``.
        target: of a table, the column of the labels, or a list of columns; a number is a name too.
        test_fraction: of the samples, drawn once for all seeds, that are the test set where the file has none.
        standardize: shift and scale every input to mean 0 and deviation 1 over the training set.
    """

    path: str = ""
    task: str = "auto"
    target: Any = ""
    test_fraction: float = 0.0
    standardize: bool = False

    def __post_init__(self) -> None:
        listed = self.target.split(",") if isinstance(self.target, str) else self.target
        # YAML has a name of digits alone as a number, and `true` as no name.
        listed = listed if isinstance(listed, list) else [listed]
        if not all(isinstance(c, str | int) and not isinstance(c, bool) for c in listed):
            raise ConfigError("target", self.target, "names a column, or several, [A,B]")
        self._columns = [str(c).strip() for c in listed if str(c).strip()]
        # Whether the file holds x and y, of which the test set is a part.
        self._whole = False
        if self.task not in ("auto", "sign", "classes", "regression"):
            raise ConfigError("task", self.task, "one of auto, sign, classes, regression")
        if not self.path:
            raise ConfigError("path", "''", "names the file, .npz, .csv, .tsv or .parquet")
        if not 0 <= self.test_fraction < 1:
            raise ConfigError("test_fraction", self.test_fraction, "a fraction of the samples lies in [0, 1)")

    def load(self, dtype: torch.dtype, device: torch.device) -> Problem:
        """Read the file.

        Raises:
            ConfigError: the file is missing or of another format, its arrays do not fit together, or they hold what is
                not finite in ``dtype``.
        """
        raw = self._split(self._read())
        # What is standardized loses its offset before it is rounded, and a run in float64 rounds nothing.
        exact = self.standardize or dtype == torch.float64
        x = {s: self._inputs(raw, s, exact) for s in SPLITS}
        if x["train"].shape[1] != x["test"].shape[1]:
            self._refuse(f"x_train has {x['train'].shape[1]} numbers a sample, x_test {x['test'].shape[1]}")
        if (x["train"].dtype == np.uint8) != (x["test"].dtype == np.uint8):
            self._refuse(f"x_train is {raw['x_train'].dtype}, x_test {raw['x_test'].dtype}")
        task = self._task(raw["y_train"])
        for s in SPLITS:
            self._refuse_labels(raw[f"y_{s}"], s, task)
            if len(raw[f"y_{s}"]) != len(x[s]):
                self._refuse(f"x_{s} has {len(x[s])} samples, y_{s} {len(raw[f'y_{s}'])}")
        y, names = self._classes(raw) if task is Task.CLASSES else (self._numbers(raw), None)
        n_out = len(names) if names is not None else y["train"].shape[1]
        shapes = {raw[f"x_{s}"].shape[1:] for s in SPLITS}
        image = next(iter(shapes)) if len(shapes) == 1 and raw["x_train"].ndim == 4 else None
        data = {s: (torch.from_numpy(x[s]), y[s]) for s in SPLITS}
        problem = FiniteProblem(data, task, n_out, dtype, device, image, standardize=self.standardize)
        problem.classes = names
        self._refuse_overflow(problem)
        return problem

    # -- the file ----------------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, np.ndarray]:
        """The arrays of the file, by name; x and y where it says nothing of a test set."""
        file = Path(self.path)
        try:
            file.open("rb").close()
        except (FileNotFoundError, NotADirectoryError):
            self._refuse("no such file")
        except IsADirectoryError:
            self._refuse("is a folder, not a file")
        except OSError as error:  # The readers below would call it a file of another kind.
            self._refuse(f"cannot be read ({error.strerror})")
        if file.suffix.lower() in (".csv", ".tsv", ".parquet", ".pq"):
            return self._read_table(file)
        if self._columns:
            raise ConfigError("target", self.target, "names a column of a .csv or .parquet; an .npz has y_train")
        if not zipfile.is_zipfile(self.path):
            self._refuse("not an .npz file (numpy.savez writes one), and not named .csv, .tsv or .parquet")
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files}
        except Exception as error:  # Whatever zip, its compression or numpy met: there is no end to their kinds.
            self._refuse(f"cannot be read as .npz ({reason(error)})")
        # numpy gives what is no .npy as bytes.
        bare = [name for name in ARRAYS if isinstance(found.get(name), bytes)]
        if bare:
            self._refuse(f"{bare[0]} is no array (.npy); numpy.savez writes arrays")
        return {name: array for name, array in found.items() if name in ARRAYS}

    def _read_table(self, file: Path) -> dict[str, np.ndarray]:
        import pandas as pd

        surplus = False
        try:
            if file.suffix.lower() in (".csv", ".tsv"):
                sep = "\t" if file.suffix.lower() == ".tsv" else ","
                table = pd.read_csv(file, sep=sep)
                surplus = _has_surplus_cells(file, sep) or not isinstance(table.index, pd.RangeIndex)
            else:
                table = pd.read_parquet(file)
        except ImportError:
            self._refuse("reading Parquet needs a package that is not here; pip install pyarrow")
        except Exception as error:  # Whatever the reader of the format met.
            self._refuse(f"cannot be read as {file.suffix[1:]} ({reason(error)})")
        if surplus:
            self._refuse("has rows with more cells than its first line has names; a table has a name for each column")
        columns = self._columns
        table.columns = table.columns.map(lambda name: str(name).strip())
        if not table.columns.is_unique:
            twice = table.columns[table.columns.duplicated()][0]
            self._refuse(f"has two columns named {twice or repr(twice)}; names differ in more than blanks around them")
        missing = [c for c in columns if c not in table]
        if missing or not columns:
            there = ", ".join(map(str, list(table)[:12])) + (", ..." if len(table.columns) > 12 else "")
            raise ConfigError("target", self.target if columns else "''", f"names the labels' column, one of {there}")
        inputs = table.drop(columns=columns)
        texts = [str(c) for c in inputs if inputs[c].dtype.kind not in "fiub"]
        if texts:
            self._refuse(f"column {texts[0]} holds no numbers; inputs are numbers")
        if inputs.shape[1] == 0:
            self._refuse("has no column beside the labels")
        empty = [str(c) for c in table if table[c].isna().any()]
        if empty:
            self._refuse(f"column {empty[0]} has empty cells")
        y = table[columns[0]] if len(columns) == 1 else table[columns]
        return {"x": inputs.to_numpy(np.float64), "y": y.to_numpy()}

    def _split(self, raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """x and y of both splits, a test set being drawn where the file has none."""
        whole = [n for n in ("x", "y") if n in raw]
        if len(whole) == 1 and not {"x_train", "y_train"} & raw.keys():
            self._refuse(f"the file has {whole[0]} and no {'y' if whole == ['x'] else 'x'}")
        raw = {{"x": "x_train", "y": "y_train"}.get(k, k): v for k, v in raw.items()}
        missing = [n for n in ("x_train", "y_train") if n not in raw]
        given = [n for n in ("x_test", "y_test") if n in raw]
        if not missing and not given and self.test_fraction > 0:
            self._whole = bool(whole)
            for name in ("x_train", "y_train"):
                if raw[name].ndim == 0:
                    self._refuse(f"{name} has shape (); its first axis is the samples")
            count = len(raw["x_train"])
            order = np.random.default_rng(entropy("test set")).permutation(count)
            cut = round(count * self.test_fraction)
            if not 0 < cut < count:
                raise ConfigError("test_fraction", self.test_fraction, f"leaves an empty set of {count} samples")
            if len(raw["y_train"]) != count:
                self._refuse(f"x_train has {count} samples, y_train {len(raw['y_train'])}")
            parts = {"test": np.sort(order[:cut]), "train": np.sort(order[cut:])}
            return {f"{a}_{s}": raw[f"{a}_train"][index] for s, index in parts.items() for a in "xy"}
        if given and self.test_fraction > 0:
            raise ConfigError("test_fraction", self.test_fraction, "the file has a test set of its own")
        missing += [n for n in ("x_test", "y_test") if n not in raw]
        if missing:
            hint = (
                "" if given or "x_train" in missing else "; dataset.test_fraction=0.2 sets a fifth aside for the test"
            )
            self._refuse(f"the file has no {', '.join(missing)}{hint}")
        return raw

    # -- inputs and labels -------------------------------------------------------------------------------------------

    def _inputs(self, raw: dict[str, np.ndarray], split: str, exact: bool) -> np.ndarray:
        """Inputs (samples, d): uint8, or floats; where ``exact``, integers wider than 16 bits become float64."""
        x = raw[f"x_{split}"]
        if x.ndim < 2 or 0 in x.shape:
            self._refuse(f"x_{split} has shape {x.shape}; it needs (samples, features)")
        x = x.reshape(len(x), -1)
        if x.dtype == np.uint8:
            return np.ascontiguousarray(x)
        if x.dtype.kind not in "fiu":
            self._refuse(f"x_{split} has dtype {x.dtype}; it must hold numbers")
        wide = not np.can_cast(x.dtype, np.float32) and (exact or x.dtype.kind == "f")
        x = np.ascontiguousarray(x, dtype=np.float64 if wide else np.float32)
        if not np.isfinite(x).all():
            self._refuse(f"x_{split} holds NaN or infinity")
        return x

    def _refuse_overflow(self, problem: FiniteProblem) -> None:
        """Refuse numbers that are finite in the file, and not in the type that the run computes in."""
        dtype = problem.dtype
        for split, (x, y) in problem.data.items():
            for name, values in ((f"x_{split}", x), (f"y_{split}", y)):
                if not values.is_floating_point():
                    continue
                # In parts: inputs are kept as they are stored, and their copy in another type may be large.
                if not all(bool(part.to(dtype).isfinite().all()) for part in torch.split(values, CHUNK)):
                    word, largest = str(dtype).removeprefix("torch."), torch.finfo(dtype).max
                    self._refuse(f"{name} holds NaN or infinity in dtype={word}, whose numbers end at {largest:.2g}")

    def _task(self, y: np.ndarray) -> Task:
        if self.task != "auto":
            return Task(self.task)
        if y.dtype.kind in "fiub" and set(np.unique(y).tolist()) == {-1, 1}:
            return Task.SIGN
        return Task.REGRESSION if y.dtype.kind == "f" else Task.CLASSES

    def _refuse_labels(self, y: np.ndarray, split: str, task: Task) -> None:
        texts = y.dtype.kind in "US" or (y.dtype.kind == "O" and all(isinstance(v, str) for v in y.ravel()))
        if y.dtype.kind not in "fiub" and not texts:
            self._refuse(f"y_{split} has dtype {y.dtype}; labels are numbers or texts")
        if y.ndim == 0 or len(y) == 0:
            self._refuse(f"y_{split} is empty")
        if texts and task is not Task.CLASSES:
            self._refuse(f"y_{split} holds texts; dataset.task={task.value} takes numbers")
        if y.dtype.kind == "f" and not np.isfinite(y).all():
            self._refuse(f"y_{split} holds NaN or infinity")
        if task is not Task.REGRESSION and y.size != len(y):
            self._refuse(f"y_{split} has shape {y.shape}; {task.value} labels are one number a sample (dataset.task)")
        if task is Task.SIGN and not np.isin(y, (-1, 1)).all():
            self._refuse(f"y_{split} holds labels other than -1 and +1 (dataset.task)")
        if task is Task.CLASSES and y.dtype.kind == "f" and (y != np.round(y)).any():
            self._refuse(
                f"y_{split} holds labels that are not whole numbers; dataset.task=regression takes them as targets"
            )

    def _classes(self, raw: dict[str, np.ndarray]) -> tuple[dict[str, Tensor], list[Any]]:
        """Labels as numbers 0 .. C - 1, and what each stands for."""
        names = np.unique(raw["y_train"])
        if len(names) < 2:
            self._refuse("y_train holds a single class" + self._whole * " in the part that is left to train on")
        y = {}
        for split in SPLITS:
            labels = raw[f"y_{split}"].reshape(-1)
            unseen = labels[~np.isin(labels, names)]
            if len(unseen):
                where = "the part that is left to train on" if self._whole else "y_train"
                self._refuse(f"y_{split} holds label {unseen[0]}, which {where} has not")
            y[split] = torch.from_numpy(np.searchsorted(names, labels).astype(np.int64))
        if names.dtype.kind == "S":
            names = np.char.decode(names, "utf-8", "replace")
        return y, [int(v) if names.dtype.kind in "fiub" else str(v) for v in names]

    def _numbers(self, raw: dict[str, np.ndarray]) -> dict[str, Tensor]:
        columns = {
            s: torch.from_numpy(raw[f"y_{s}"].reshape(len(raw[f"y_{s}"]), -1).astype(np.float64)) for s in SPLITS
        }
        widths = {s: c.shape[1] for s, c in columns.items()}
        if widths["train"] != widths["test"]:
            self._refuse(f"y_train has {widths['train']} numbers a sample, y_test {widths['test']}")
        return columns

    def _refuse(self, why: str) -> NoReturn:
        if self._whole:  # By the names that the file has.
            why = re.sub(r"\b([xy])_(train|test)\b", r"\1", why)
        raise ConfigError("path", self.path, why)


def _has_surplus_cells(file: Path, sep: str) -> bool:
    """Whether the first row of a table has more cells than the header has names.

    pandas then takes the first columns as an index, which cannot always be told from the one that it makes itself; of
    later rows that are too long it says so.
    """
    with file.open(newline="", encoding="utf-8-sig") as lines:
        rows = (row for row in csv.reader(lines, delimiter=sep) if len(row) > 1 or "".join(row).strip())
        widths = [len(row) for row in islice(rows, 2)]
    return len(widths) == 2 and widths[1] > widths[0]
