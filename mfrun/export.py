"""``mfrun export``: a sweep's metrics as one tidy table, or a run's data set as a hidden layer sees it."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from mfrun.api import Run, load
from mfrun.errors import UserError
from mfrun.files import replacing


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
        UserError: another format, or parquet without the package that it needs; or the file cannot be written.
    """
    found = load(args.path)
    file = Path(args.out or Path(args.path, f"{found.path.resolve().name}.{args.format}"))
    if file.suffix not in (".csv", ".parquet"):
        raise UserError(f"--out {file}: the format is told by the ending, one of csv, parquet")
    try:
        if file.suffix == ".parquet":
            found.frame.to_parquet(file, index=False)
        else:
            found.frame.to_csv(file, index=False)
    except ImportError as error:
        raise UserError("--format parquet: needs a package that is not here; pip install pyarrow") from error
    except OSError as error:
        raise UserError(f"--out {file}: cannot be written ({error.strerror or error})") from error
    return file


def features(args: argparse.Namespace) -> Path:
    """Write the features; the file.

    Raises:
        UserError: there are none, or no one run to have them; or the file cannot be written.
    """
    found = load(args.path)
    if not isinstance(found, Run):
        raise UserError(f"{args.path}: --features are those of one run, and here are {len(found)}")
    file = Path(args.out or Path(args.path, f"features_{args.features}.npz"))
    if file.suffix != ".npz":
        raise UserError(f"--out {file}: features are written as .npz")
    arrays = found.features(args.features, args.step, args.replicate)
    try:
        with replacing(file) as temporary, temporary.open("wb") as out:
            np.savez(out, **arrays)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror})") from error
    return file
