"""Files that are written whole or not at all, files that are this process's own, and YAML as mappings."""

from __future__ import annotations

import fcntl
import io
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mfrun.errors import UserError

# Ends the names of files that are being written.
PARTIAL = ".partial"


def write_atomically(file: Path, data: str | bytes) -> None:
    """Replace a file by new content that is wholly on disk; a failure leaves the old one as it was."""
    with replacing(file) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A new file to write, which takes the place of ``file`` once it is wholly on disk."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}{PARTIAL}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    mode = stat.S_IMODE(os.fstat(handle).st_mode)
    os.close(handle)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        # Who writes may put a file of its own in the place, for its owner only; a run is shared like any other file.
        temporary.chmod(mode)
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def appended(file: Path) -> io.TextIOWrapper:
    """A file to add lines to, made where it is missing; not one elsewhere that a link in its place leads to.

    Raises:
        UserError: it is a link, or there is no permission.
    """
    try:
        return os.fdopen(os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666), "a")
    except OSError as error:
        why = "a link, which may lead out of the folder" if file.is_symlink() else error.strerror
        raise UserError(f"{file}: cannot be written ({why})") from error


def locked(file: Path, busy: str) -> io.TextIOWrapper:
    """A lock file that this process holds until it is closed, or until the process ends.

    Args:
        file: the lock, made where it is missing.
        busy: what to say where another process holds it.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    handle = appended(file)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        held = isinstance(error, BlockingIOError)
        raise UserError(busy if held else f"{file}: cannot be locked ({error.strerror})") from error
    return handle


def read_yaml(file: Path) -> object:
    """What a YAML file holds, mappings and lists as OmegaConf has them.

    Raises:
        UserError: missing, or unreadable.
    """
    try:
        return OmegaConf.load(file)
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file") from error
    except Exception as error:  # OmegaConf passes on whatever its YAML reader meets.
        raise UserError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from error


def load_yaml(file: Path) -> DictConfig:
    """A YAML mapping.

    Raises:
        UserError: missing, unreadable, or no mapping.
    """
    node = read_yaml(file)
    if not isinstance(node, DictConfig):
        raise UserError(f"{file}: not a mapping of keys to values")
    return node


def plain(node: DictConfig) -> dict[str, Any]:
    """A mapping of OmegaConf's as nested plain ones, with texts as keys."""
    found = OmegaConf.to_container(node)
    assert isinstance(found, dict)
    return {str(k): v for k, v in found.items()}


def nearest(path: Path) -> Path:
    """What exists of a path: itself, or the first of its parents that does."""
    return next(p for p in (path, *path.absolute().parents) if p.exists())


def free_bytes(path: Path) -> int:
    """Free space of the disk that a path lies on, or would lie on."""
    return shutil.disk_usage(nearest(path)).free
