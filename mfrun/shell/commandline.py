"""The words of a command line: flags and overrides, as Hydra reads them."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import OverrideParseException

from mfrun import config
from mfrun.errors import UserError
from mfrun.registry import quote, reason

# Hydra's flags that print something and train nothing; the short ones may have what they print joined to them, -cjob,
# which -cd, -cn and -cp do not begin.
_PRINTING = re.compile(r"(--(cfg|info|hydra-help|shell-completion|version)|-c|-i|-sc)(=.*)?$|-(c(?![dnp])|i)\w")
# Hydra's flags that a value follows.
_VALUED = (
    *("--cfg", "-c", "--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p"),
    "--experimental-rerun",
)

# A number with an exponent that stands by itself, and is no folder of a path.
_EXPONENT = re.compile(r"(?<![\w./+-])\d+(?:\.\d*)?[eE]\+?\d+(?![\w./])")
# The keys that are no group's.
KEYS = {f.name for f in dataclasses.fields(config.Config)}


def split(argv: list[str]) -> tuple[list[str], list[str]]:
    """(flags with their values, overrides)."""
    flags: list[str] = []
    overrides: list[str] = []
    words = iter(argv)
    for word in words:
        if word in _VALUED:
            flags += [word, *itertools.islice(words, 1)]
        elif word.startswith("-"):
            name = word.lstrip("-").split("=")[0].replace("-", "_")
            if name in KEYS:
                raise UserError(f"{word}: a key is set without dashes, as in {name}=...")
            flags.append(word)
        else:
            overrides.append(_plain(translate(word)))
    return flags, overrides


def prints(word: str) -> bool:
    """Whether a word is a flag of Hydra's that prints something and trains nothing."""
    return _PRINTING.match(word) is not None


def config_dirs(words: list[str]) -> list[str]:
    """The folders of one's own YAML files that a line names."""
    named = [w.partition("=")[2] for w in words if w.startswith("--config-dir=")]
    return named + [b for a, b in itertools.pairwise(words) if a in ("--config-dir", "-cd")]


def _plain(word: str) -> str:
    """A word as Hydra's grammar takes it, where people and shells write it in another way."""
    key, equals, value = word.partition("=")
    if not equals or value[:1] in ("'", '"'):
        return word
    if value == "~" or value.startswith("~/"):
        return f"{key}={quote(str(Path(value).expanduser()))}"
    # A sweep's folders are called width=50,..., which the grammar only takes in quotes.
    if key == "dir":
        return f"dir={quote(value)}"
    return word if key == "title" or '"' in value or "'" in value else f"{key}={_EXPONENT.sub(_whole, value)}"


def _whole(number: re.Match[str]) -> str:
    """1e4 as 10000, where it is a whole number, so that it may stand where only those may."""
    value = float(number[0])
    if value == float("inf"):  # Hydra would take it for infinity.
        raise UserError(f"{number[0]}: too large a number")
    return str(int(value)) if value.is_integer() and value < 1e18 else number[0]


def translate(word: str) -> str:
    """Hydra's two keys for the output folder are one here; a preset is asked for with or without a plus."""
    return re.sub(r"^\+figure=", "figure=", re.sub(r"^hydra\.(run|sweep)\.dir=", "dir=", word))


def arguments(argv: list[str]) -> argparse.Namespace:
    """Hydra's reading of a command line, with its complaint as one line.

    Raises:
        UserError: a flag that is not known, or one that has no meaning here.
    """

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; mfrun train --help lists the flags")

    parser = get_args_parser()
    parser.allow_abbrev = False
    parser.error = refuse  # type: ignore[method-assign]
    read = parser.parse_args(argv)
    if read.config_path:
        why = "mfrun's own files stay; --config-dir adds a folder of yours"
        raise UserError(f"--config-path {read.config_path}: {why}")
    if read.run or read.multirun:
        said = "--multirun" if read.multirun else "--run"
        raise UserError(f"{said}: has no meaning here; mfrun train trains one network, mfrun sweep several")
    if read.experimental_rerun:
        raise UserError(f"--experimental-rerun {read.experimental_rerun}: dir=FOLDER resume=true goes on with a run")
    if not read.cfg and (read.resolve or read.package):
        raise UserError(f"{'--resolve' if read.resolve else '--package'}: is about what --cfg prints")
    return read


def parse(overrides: list[str]) -> list[Override]:
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except OverrideParseException as error:
        why = reason(error)
        detail = "" if why.startswith("Error parsing override") else f" ({why})"
        raise UserError(f"{error.override}: not of the form KEY=VALUE{detail}") from error
    for o in parsed:
        if not o.key_or_group:
            raise UserError(f"{line(o)}: not of the form KEY=VALUE")
    return parsed


def line(o: Override) -> str:
    """The override as it was typed."""
    return o.input_line or ""


def each(o: Override) -> list[str]:
    """The override with each of its values.

    Raises:
        UserError: it does not say them.
    """
    if not o.is_sweep_override():
        return [line(o)]
    if o.value_type is ValueType.GLOB_CHOICE_SWEEP or not o.is_discrete_sweep():
        raise UserError(f"{line(o)}: give the values, KEY=A,B,... or KEY=range(FIRST,END,STEP)")
    values = [f"{line(o).split('=')[0]}={value}" for value in o.sweep_string_iterator()]
    if not values:
        raise UserError(f"{line(o)}: holds no value")
    return values


def first(overrides: list[str]) -> list[str]:
    """The overrides with the first of each one's values."""
    return [each(o)[0] for o in parse(overrides)]


def jobs(parsed: list[Override]) -> list[list[str]]:
    """The overrides of every job, in the order in which Hydra runs them."""
    return [list(job) for job in itertools.product(*map(each, parsed))]


def over(old: list[str], new: list[str]) -> list[str]:
    """The overrides that a run was started with and those given now, which come before them."""
    given = {o.key_or_group for o in parse(new)}
    return [*(o for o in old if parse([o])[0].key_or_group not in given), *new]


def swept_keys(parsed: list[Override]) -> list[str]:
    keys = [o.key_or_group for o in parsed if o.is_sweep_override()]
    return ["width", *(k for k in keys if k != "width")]


def is_group(key: str, folders: Iterable[str] = ()) -> bool:
    """Whether it is a group, mfrun's or one in the user's own folders of YAML files."""
    return any(Path(folder, key).is_dir() for folder in [str(config.conf_dir()), *folders])


def chooses(o: Override, folders: Iterable[str] = ()) -> bool:
    """Whether an override does no more than choose files of a group."""
    return is_group(o.key_or_group, folders) and all(isinstance(parse([one])[0].value(), str) for one in each(o))


def subdirectory(parsed: list[Override], folders: Iterable[str] = ()) -> str:
    """The folder of every job below the sweep's, with the job's own values in place of the keys.

    Raises:
        UserError: a job has several options of a group, which have no name.
    """
    for o in parsed:
        if o.is_sweep_override() and is_group(o.key_or_group, folders) and not chooses(o, folders):
            raise UserError(f"{line(o)}: a sweep takes one option of a group for each run, {o.key_or_group}=A,B")
    values = {k: f"hydra.runtime.choices.{k}" if is_group(k, folders) else k for k in swept_keys(parsed)}
    return ",".join(f"{k}=${{in_name:${{{value}}}}}" for k, value in values.items())
