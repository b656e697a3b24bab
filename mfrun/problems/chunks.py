"""A long computation kept on disk as it goes: arrays that are filled chunk by chunk, with a checksum of each chunk.

    NAME.npy         float16, all rows from the start; what no commit names may be anything
    chunks.json      the commit: what was computed, and the sha256 of every chunk that is there
    chunks.lock      held by the process that computes

A chunk is flushed to disk before the commit that names it, and a commit replaces the one before it. So a process may
be killed at any moment: what is committed is whole, and the rest is computed again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mfrun.errors import UserError
from mfrun.files import locked, write_atomically

COMMIT = "chunks.json"
LOCK = "chunks.lock"
# Rows between two commits.
ROWS = 100
DTYPE = np.dtype("<f2")


class Chunk(NamedTuple):
    """Rows ``first`` to ``last - 1`` of one array."""

    name: str
    first: int
    last: int


class ChunkedArrays:
    """Half-precision arrays (N, d) in a folder.

    Args:
        folder: where they lie, or will lie.
        identity: what they were computed from, as JSON; arrays of another identity count as not there.
        rows: N of each array.
        d: numbers in a row.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], rows: Mapping[str, int], d: int) -> None:
        self.folder, self.identity, self.rows, self.d = folder, identity, dict(rows), d
        self._sums: dict[str, dict[str, str]] = {name: {} for name in rows}

    def chunks(self) -> list[Chunk]:
        """All of them, in the order in which they are computed."""
        return [Chunk(name, i, min(i + ROWS, n)) for name, n in self.rows.items() for i in range(0, n, ROWS)]

    def missing(self) -> list[Chunk]:
        """The chunks that are not committed, or whose rows are not those that were committed."""
        self._read_commit()
        arrays = {name: self._open(name) for name in self.rows}
        return [c for c in self.chunks() if not self._holds(arrays[c.name], c)]

    def load(self, name: str) -> np.ndarray:
        """An array (N, d), mapped from its file: it takes memory only as it is read, and that can be given back.

        Raises:
            UserError: the file cannot be read.
        """
        array = self._open(name)
        if array is None:
            raise UserError(f"{self._file(name)}: cannot be read")
        return array

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, which is made where it is missing, for this process.

        Raises:
            UserError: another process holds it; it cannot be written to, or its disk is too full.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written to ({error.strerror})") from error
        with locked(self.folder / LOCK, f"{self.folder}: another process is computing these features"):
            for name in self.rows:
                self._make(name)
            yield

    def write(self, chunk: Chunk, values: np.ndarray) -> None:
        """Put the rows of one chunk in their place and commit them.

        Args:
            chunk: which.
            values: (last - first, d).

        Raises:
            UserError: the disk refuses them.
        """
        data = np.ascontiguousarray(values, dtype=DTYPE).tobytes()
        file = self._file(chunk.name)
        try:
            with file.open("r+b") as out:
                out.seek(len(_header((self.rows[chunk.name], self.d))) + chunk.first * self.d * DTYPE.itemsize)
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            self._sums[chunk.name][str(chunk.first)] = hashlib.sha256(data).hexdigest()
            commit = {"identity": self.identity, "rows": ROWS, "sha256": self._sums}
            write_atomically(self.folder / COMMIT, json.dumps(commit, indent=1))
        except OSError as error:
            raise UserError(f"{file}: cannot be written ({error.strerror})") from error

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _read_commit(self) -> None:
        self._sums = {name: {} for name in self.rows}
        try:
            commit = json.loads((self.folder / COMMIT).read_text())
            if commit["identity"] == self.identity and commit["rows"] == ROWS:
                self._sums = {name: dict(commit["sha256"][name]) for name in self.rows}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass

    def _holds(self, array: np.ndarray | None, chunk: Chunk) -> bool:
        committed = self._sums[chunk.name].get(str(chunk.first))
        if array is None or committed is None:
            return False
        return hashlib.sha256(array[chunk.first : chunk.last].data.cast("B")).hexdigest() == committed

    def _open(self, name: str) -> np.ndarray | None:
        """The array in its file; None where that is missing or of another size."""
        try:
            # Copy on write: torch wants memory that may be written to, and the file stays as it is.
            array = np.load(self._file(name), mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return array if array.dtype == DTYPE and array.shape == (self.rows[name], self.d) else None

    def _make(self, name: str) -> None:
        """The file in its full length, unless it is there."""
        if self._open(name) is not None:
            return
        file, header = self._file(name), _header((self.rows[name], self.d))
        size = self.rows[name] * self.d * DTYPE.itemsize
        free = shutil.disk_usage(self.folder).free
        if free < size:
            raise UserError(f"{file}: needs {size / 1e9:.2f} GB, of which its disk has {free / 1e9:.2f} GB free")
        try:
            with file.open("wb") as out:
                out.write(header)
                out.truncate(len(header) + size)
        except OSError as error:
            raise UserError(f"{file}: cannot be written ({error.strerror})") from error


def _header(shape: tuple[int, int]) -> bytes:
    """The beginning of an .npy file."""
    out = io.BytesIO()
    description = {"descr": DTYPE.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, description)
    return out.getvalue()
