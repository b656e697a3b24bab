"""The words of a command line: flags and overrides as Hydra reads them, and the configuration that they compose."""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import re
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mfrun import config
from mfrun.errors import ConfigError, UserError
from mfrun.files import nearest
from mfrun.registry import reason, suggest

# Hydra's flags that a value follows.
_VALUED = ("--cfg", "-c", "--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p")


def split(argv: list[str]) -> tuple[list[str], list[str]]:
    """(flags with their values, overrides)."""
    flags: list[str] = []
    overrides: list[str] = []
    words = iter(argv)
    for word in words:
        if word in ("-m", "--multirun"):  # said by mfrun sweep itself; mfrun train refuses several values
            continue
        if word in _VALUED:
            flags += [word, *itertools.islice(words, 1)]
        elif word.startswith("-"):
            flags.append(word)
        else:
            word = translate(word)
            # A sweep's folders are called width=50,..., which Hydra's grammar only takes in quotes.
            if word.startswith("dir=") and word[4:5] not in ("'", '"'):
                word = f"dir={quote(word[4:])}"
            overrides.append(word)
    return flags, overrides


def translate(word: str) -> str:
    """Hydra's two keys for the output folder are one here; a preset is asked for with or without a plus."""
    return re.sub(r"^\+figure=", "figure=", re.sub(r"^hydra\.(run|sweep)\.dir=", "dir=", word))


def arguments(argv: list[str]) -> argparse.Namespace:
    """Hydra's reading of a command line, with its complaint as one line."""

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; mfrun train --help lists the flags")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_args(argv)


def quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


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
    """The override with each of its values."""
    if not o.is_sweep_override():
        return [line(o)]
    return [f"{line(o).split('=')[0]}={value}" for value in o.sweep_string_iterator()]


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


def compose(overrides: list[str], flags: list[str], complete: bool = True) -> DictConfig:
    """The configuration that Hydra will compose, or one line that says why it will not.

    Args:
        overrides: one value for each key.
        flags: Hydra's flags.
        complete: refuse keys that have no value yet.
    """
    name, extra = _source(flags)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config.conf_dir()), version_base="1.3", job_name="mfrun"):
        try:
            _refuse_options(overrides, name, extra)
            node = hydra_compose(name, overrides=[*overrides, *extra])
        except (HydraException, OmegaConfBaseException) as error:
            raise _explain(error, overrides, name, extra) from error
        except yaml.MarkedYAMLError as error:
            place = f"{error.problem_mark.name}: line {error.problem_mark.line + 1}: " if error.problem_mark else ""
            raise UserError(f"{place}not YAML ({error.problem})") from error
    missing = sorted(OmegaConf.missing_keys(node))
    if missing and complete:
        raise ConfigError(missing[0], "(missing)", "has no default and must be given")
    try:
        OmegaConf.resolve(node)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error.full_key or "config"), "?", reason(error)) from error
    return node


def _source(flags: list[str]) -> tuple[str, list[str]]:
    """The name of the configuration that Hydra's flags ask for, and the overrides that --config-dir stands for."""
    args = arguments(flags)
    config.store_schema()
    if not args.config_dir:
        return args.config_name or "config", []
    if not Path(args.config_dir).is_dir():
        raise UserError(f"--config-dir {args.config_dir}: no such folder")
    folder = quote("file://" + str(Path(args.config_dir).resolve()))
    return args.config_name or "config", [f"hydra.searchpath=[{folder}]"]


def hydra_settings(overrides: list[str], flags: list[str]) -> DictConfig:
    """The node ``hydra`` of a sweep: its launcher, and in ``sweeper.params`` the keys that a preset sweeps over."""
    name, extra = _source(flags)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config.conf_dir()), version_base="1.3", job_name="mfrun"):
        settings = hydra_compose(name, overrides=[*first(overrides), *extra], return_hydra_config=True).hydra
    assert isinstance(settings, DictConfig)
    return settings


def folder(node: DictConfig) -> Path:
    """``dir``, where it can be a folder that is written to."""
    path = Path(str(node.dir))
    if not node.dir:
        raise ConfigError("dir", "''", "names the folder to write into")
    there = nearest(path)
    if not there.is_dir():
        raise ConfigError("dir", path, f"{there} is a file, not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError("dir", path, f"no permission to write in {there}")
    return path


def _refuse_options(overrides: list[str], name: str, extra: list[str]) -> None:
    """Refuse options that a group has not; Hydra passes over them in silence where the group is optional."""
    for o in parse(overrides):
        options, value = _options(o.key_or_group, name, tuple(extra)), o.value()
        if options and isinstance(value, str) and value not in options:
            raise ConfigError(o.key_or_group, value, f"unknown; one of {', '.join(options)}{suggest(value, options)}")


@functools.cache  # asked again for every job of a sweep
def _options(group: str, name: str, extra: tuple[str, ...]) -> list[str]:
    """The options of a group; none where it is a plain key."""
    loader = GlobalHydra.instance().config_loader()
    return list(loader.get_group_options(group, config_name=name, overrides=list(extra)))


def _explain(error: Exception, overrides: list[str], name: str, extra: list[str]) -> UserError:
    """Hydra's messages, which span paragraphs, as one line that names the override to blame."""
    parsed = parse(overrides)
    groups = [line(o) for o in parsed if _options(o.key_or_group, name, tuple(extra))]
    try:
        base = hydra_compose(name, overrides=[*groups, *extra])
    except (HydraException, OmegaConfBaseException):
        return UserError(_root_reason(error))
    for o in parsed:
        try:
            hydra_compose(name, overrides=[*(g for g in groups if g != line(o)), line(o), *extra])
        except (HydraException, OmegaConfBaseException) as own:
            parent, _, last = o.key_or_group.rpartition(".")
            siblings = OmegaConf.select(base, parent) if parent else base
            if not isinstance(siblings, DictConfig) or last in siblings or line(o) in groups or parent == "hydra":
                return UserError(f"{line(o)}: {_root_reason(own)}")
            if parent:
                known = [str(k) for k in siblings if k != "name"]
                here = f"keys here are {', '.join(known)}" if known else f"{parent} has no keys"
            else:
                known, here = [*config.flatten(plain(base)), *map(str, base)], "mfrun train --help lists them"
            return UserError(f"{line(o)}: unknown key; {here}{suggest(last, known)}")
    return UserError(_root_reason(error))


def _root_reason(error: BaseException) -> str:
    """What is wrong, in the words of the error that the others were raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return reason(error)


def plain(node: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(node)
    assert isinstance(plain, dict)
    return {str(k): v for k, v in plain.items()}


def swept_keys(parsed: list[Override]) -> list[str]:
    keys = [o.key_or_group for o in parsed if o.is_sweep_override()]
    return ["width", *(k for k in keys if k != "width")]


def is_group(key: str) -> bool:
    return (config.conf_dir() / key).is_dir()


def chooses(o: Override) -> bool:
    """Whether an override does no more than choose files of a group."""
    return is_group(o.key_or_group) and all(isinstance(parse([one])[0].value(), str) for one in each(o))


def value_of(key: str) -> str:
    return f"${{hydra:runtime.choices.{key}}}" if is_group(key) else f"${{{key}}}"


def subdirectory(parsed: list[Override], job: list[str], node: DictConfig) -> str:
    """The folder of one job below the sweep's, as ``hydra.sweep.subdir`` names it."""
    given = {o.key_or_group: o for o in parse(job)}
    parts = []
    for key in swept_keys(parsed):
        value = given[key].value() if is_group(key) and key in given else OmegaConf.select(node, key)
        parts.append(f"{key}={value}")
    return ",".join(parts)
