"""Where a value came from that a run refuses: a YAML file of the user's own, or the command line."""

from __future__ import annotations

from pathlib import Path

from mfrun.config import flatten
from mfrun.errors import ConfigError
from mfrun.files import load_yaml, plain
from mfrun.shell import commandline
from mfrun.shell.usage import prefix_of


def own_file(error: Exception, argv: list[str]) -> Path | None:
    """The file below ``--config-dir`` that gave the refused key its value; None where no such file did.

    Args:
        error: what is refused.
        argv: the words of the command line.
    """
    folders = commandline.config_dirs(argv)
    typed = {word.lstrip("+").partition("=")[0]: word.partition("=")[2] for word in argv if "=" in word}
    if not folders or not isinstance(error, ConfigError) or error.key in typed:
        return None
    for group, chosen in typed.items():
        for file in [Path(folder, group, f"{option}.yaml") for folder in folders for option in chosen.split(",")]:
            if file.is_file() and error.key in _sets(file, group):
                return file
    return None


def _sets(file: Path, group: str) -> set[str]:
    """The full keys that a file of a group sets."""
    place = prefix_of(file.read_text(), group.replace("/", "."))
    found = flatten(plain(load_yaml(file)))
    # A refused list or mapping is called by its own name, not by those of its parts.
    parts = [key.split(".") for key in found]
    return {place + ".".join(part[:i]) for part in parts for i in range(1, len(part) + 1)}
