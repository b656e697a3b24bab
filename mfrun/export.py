"""``mfrun export``: a sweep's metrics as one tidy table, or a run's data set as a hidden layer sees it."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from mfrun.api import Run, Sweep, load
from mfrun.errors import UserError
from mfrun.files import replacing
from mfrun.runs.directory import METRICS, RunDirectory


def main(args: argparse.Namespace) -> int:
    """Entry point of the command.

    Raises:
        UserError: what is asked for is not there, or the format needs a package that is not here.
    """
    print(table(args) if args.features is None else features(args))
    return 0


def table(args: argparse.Namespace) -> Path:
    """Write the metrics; the file.

    Raises:
        UserError: another format, or parquet without the package that it needs; an option of the features; or the file
            is a run's own, or cannot be written.
    """
    for option, value in (("--step", args.step), ("--replicate", args.replicate)):
        if value is not None:
            raise UserError(f"{option} {value}: is one of --features, which is not there; the table has all of them")
    found = load(args.path)
    file = Path(args.out) if args.out else _table_of(found, Path(args.path), args.format or "csv")
    if _is_record(file):
        raise UserError(f"--out {file}: is the run's own record, which a table must not replace")
    if file.suffix not in (".csv", ".parquet"):
        raise UserError(f"--out {file}: the format is told by the ending, one of csv, parquet")
    try:
        frame = found.frame
        with replacing(file) as temporary:
            if file.suffix == ".parquet":
                frame.to_parquet(temporary, index=False)
            else:
                frame.to_csv(temporary, index=False)
    except ImportError as error:
        raise UserError("--format parquet: needs a package that is not here; pip install pyarrow") from error
    except OSError as error:
        raise UserError(f"--out {file}: cannot be written ({error.strerror or error})") from error
    return file


def _table_of(found: Run | Sweep, folder: Path, ending: str) -> Path:
    """The table's file where none is named: called what the folder is, unless that is what a run calls its record."""
    file = folder / f"{found.path.resolve().name}.{ending}"
    return file.with_stem("export") if _is_record(file) else file


def _is_record(file: Path) -> bool:
    """Whether it is the metrics.csv of a run, from which the run goes on and of which there is no other copy."""
    return file.name == METRICS and RunDirectory(file.parent).exists()


def features(args: argparse.Namespace) -> Path:
    """Write the features; the file.

    Raises:
        UserError: there are none, or no one run to have them; a format of the table; or the file cannot be written.
    """
    if args.format is not None:
        raise UserError(f"--format {args.format}: is that of the table; --features are written as .npz")
    found = load(args.path)
    if not isinstance(found, Run):
        raise UserError(f"{args.path}: --features are those of one run, and here are {len(found)}")
    file = Path(args.out or Path(args.path, f"features_{args.features}.npz"))
    if file.suffix != ".npz":
        raise UserError(f"--out {file}: features are written as .npz")
    arrays = found.features(args.features, args.step, args.replicate or 0)
    try:
        with replacing(file) as temporary, temporary.open("wb") as out:
            np.savez(out, **arrays)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror})") from error
    return file
