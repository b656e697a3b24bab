"""The two ways in which mfrun stops on purpose."""

from __future__ import annotations

import errno
import json


class UserError(Exception):
    """Something outside the program is wrong (a path, a file, a key): told in one line, exit code 2."""


class ConfigError(UserError):
    """A configuration value that makes no sense.

    Args:
        key: the full key as the user types it, e.g. ``schedule.p``.
        value: what was given.
        allowed: what would be accepted, in a few words.
    """

    def __init__(self, key: str, value: object, allowed: str) -> None:
        self.key, self.value, self.allowed = key, value, allowed
        super().__init__(f"{key}={typed(value)}: {allowed}")


def typed(value: object) -> str:
    """A key's value as YAML and a command line have it: ``null``, ``true`` and ``false`` are not Python's words."""
    if isinstance(value, list):
        return f"[{', '.join(map(typed, value))}]"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def printable(text: str) -> str:
    """What a file of somebody else's holds, as it can stand in a line: a space for each character that moves others."""
    return "".join(c if c.isprintable() else " " for c in text)


# What PyTorch calls it: on the host it has no class of its own for it, and this module does without that library.
_NO_MEMORY = ("can't allocate memory", "OutOfMemoryError")


def out_of_memory(error: BaseException) -> bool:
    """Whether it is that memory ran out."""
    return isinstance(error, MemoryError) or any(words in f"{type(error).__name__}: {error}" for words in _NO_MEMORY)


def unforeseen(error: BaseException, trains: bool = True) -> str:
    """An error that nobody raised on purpose, in a line: its type and what it says, or that memory ran out."""
    if out_of_memory(error):
        return "out of memory" + ("; mfrun sweep ... --dry-run says what a run takes" if trains else "")
    return f"{type(error).__name__}: {error}".splitlines()[0]


def of_the_system(error: OSError, trains: bool = True) -> str:
    """What the system says of a file, in one line, and on a full disk what becomes of the run that was trained."""
    said = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    if trains and error.errno in (errno.ENOSPC, errno.EDQUOT):
        said += "; what was saved before is whole, and resume=true goes on from it once there is room"
    return said


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop (Ctrl-C or SIGTERM) and has saved its state.

    A ``KeyboardInterrupt``, so that a sweep stops too and nothing mistakes it for a failed job.

    Attributes:
        signal_number: of the signal that asked for it.
        again: the command that goes on; empty where only others know it.
    """

    again: str = ""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        super().__init__(f"stopped by signal {signal_number}")
