"""The configuration that the words of a command line compose, or one line that says why they compose none."""

from __future__ import annotations

import copy
import errno
import functools
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mfrun import config
from mfrun.errors import ConfigError, UserError
from mfrun.files import load_yaml, nearest, plain
from mfrun.registry import NODE, quote, reason, suggest
from mfrun.shell import commandline

# conf/hydra/launcher/ and the plugins' own schemas share their names, on purpose: the schemas check the types.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema", UserWarning)

# What OmegaConf says of a key that is not there.
_UNKNOWN = re.compile(r"Key '[^']+' (is )?not in")

# Hydra has one place in a process for what it composes with; threads of a program take it in turn.
_composing = threading.RLock()

# What other programs' words are here.
ELSEWHERE = {
    **dict.fromkeys(("lr", "learning_rate", "eta"), "the learning rate is alpha"),
    **dict.fromkeys(("n", "hidden", "hidden_size", "units"), "the neurons of a hidden layer are width"),
    **dict.fromkeys(("layers", "num_layers", "L"), "the layers are depth, the output counted"),
    **dict.fromkeys(("epochs", "max_epochs"), "training is counted in steps, of which samples / batch are an epoch"),
    **dict.fromkeys(("batch_size", "bs"), "the samples of a step are batch"),
    **dict.fromkeys(("optimizer", "momentum", "weight_decay"), "training is plain SGD, as in the paper"),
}


def compose(overrides: list[str], flags: list[str], complete: bool = True) -> DictConfig:
    """The keys of a run, resolved.

    Args:
        overrides: one value for each key.
        flags: Hydra's flags.
        complete: refuse keys that have no value yet.

    Raises:
        UserError: the words make no sense.
    """
    return keys(compose_whole(overrides, flags), complete)


def compose_whole(overrides: list[str], flags: list[str]) -> DictConfig:
    """The keys of a run as they stand in the files, and Hydra's own beside them in the node ``hydra``.

    Raises:
        UserError: the words make no sense.
    """
    name, extra = _source(flags)
    with _hydra():
        try:
            _refuse_options(overrides, name, extra)
            return hydra.compose(name, overrides=[*overrides, *extra], return_hydra_config=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise _explain(error, overrides, name, extra) from error
        except yaml.MarkedYAMLError as error:
            place = f"{error.problem_mark.name}: line {error.problem_mark.line + 1}: " if error.problem_mark else ""
            raise UserError(f"{place}not YAML ({error.problem})") from error


def compose_jobs(jobs: list[list[str]], flags: list[str]) -> list[DictConfig]:
    """The whole configurations of a sweep's jobs.

    Jobs that choose the same files share their composition: the keys in those files are then set in a copy of it, which
    is what Hydra does last of all, and takes a tenth of the time.

    Args:
        jobs: the overrides of each, with one value for each key.
        flags: Hydra's flags.

    Raises:
        UserError: the words make no sense.
    """
    name, extra = _source(flags)
    composed: dict[tuple[str, ...], DictConfig] = {}
    wholes = []
    for words in jobs:
        parsed = commandline.parse(words)
        with _hydra():
            settable = [o for o in parsed if _sets(o) and not _options(o.key_or_group, name, tuple(extra))]
        files = tuple(commandline.line(o) for o in parsed if o not in settable)
        try:
            wholes.append(_set(copy.deepcopy(composed[files]), settable, parsed))
        except (KeyError, OmegaConfBaseException):
            composed[files] = compose_whole(words, flags)
            wholes.append(composed[files])
    return wholes


def _sets(o: Override) -> bool:
    """Whether an override gives a value to a key or chooses a file, and does no more: a mapping is merged into it."""
    return o.type is OverrideType.CHANGE and o.package is None and not isinstance(o.value(), dict)


def _set(whole: DictConfig, overrides: list[Override], words: list[Override]) -> DictConfig:
    """Set keys in a configuration, and note the words of the job that it is the configuration of now."""
    for o in overrides:
        OmegaConf.update(whole, o.key_or_group, o.value())
    own = [o for o in words if not o.is_hydra_override()]
    job, said = whole.hydra.job, whole.hydra.overrides
    said.task = [commandline.line(o) for o in own]
    said.hydra = [commandline.line(o) for o in words if o.is_hydra_override()]
    naming = job.config.override_dirname
    named = sorted(commandline.line(o) for o in own if o.key_or_group not in naming.exclude_keys)
    job.override_dirname = naming.item_sep.join(named).replace("=", naming.kv_sep)
    return whole


def keys(whole: DictConfig, complete: bool = True) -> DictConfig:
    """The keys of a run, resolved, out of a whole configuration.

    Raises:
        ConfigError: a key has no value, or refers to one that is not there.
    """
    node = copy.deepcopy(whole)
    with open_dict(node):
        del node["hydra"]
    try:
        missing = sorted(OmegaConf.missing_keys(node))
        if missing and complete:
            raise ConfigError(missing[0], "(missing)", "has no default and must be given")
        OmegaConf.resolve(node)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error.full_key or "config"), "?", reason(error)) from error
    return node


def folder(node: DictConfig) -> Path:
    """``dir``, where it can be a folder that is written to."""
    path = Path(str(node.dir))
    if not node.dir:
        raise ConfigError("dir", "''", "names the folder to write into")
    try:
        there = nearest(path)
    except OSError as error:
        raise ConfigError("dir", path, f"cannot be a folder ({error.strerror})") from error
    if not there.is_dir():
        raise ConfigError("dir", path, f"{there} is a file, not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError("dir", path, f"no permission to write in {there}")
    return path


def made(path: Path) -> Path:
    """``dir`` as a folder that is there.

    Raises:
        ConfigError: the system allows none, as in /proc, which only an attempt shows.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # A full disk is nobody's mistake.
            raise
        raise ConfigError("dir", path, f"cannot be made ({error.strerror})") from error
    return path


@contextmanager
def _hydra() -> Iterator[None]:
    """A context in which Hydra composes configurations out of the files of this package, for one thread at a time."""
    with _composing:
        # A program around this one may have set Hydra up for itself.
        before = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        try:
            with hydra.initialize_config_dir(str(config.conf_dir()), version_base="1.3", job_name="mfrun"):
                yield
        finally:
            GlobalHydra.instance().hydra = before


def _source(flags: list[str]) -> tuple[str, list[str]]:
    """The name of the configuration that Hydra's flags ask for, and the overrides that --config-dir stands for."""
    args = commandline.arguments(flags)
    config.store_schema()
    if not args.config_dir:
        return args.config_name or "config", []
    if not Path(args.config_dir).is_dir():
        raise UserError(f"--config-dir {args.config_dir}: no such folder")
    # In a session, its files come and go.
    _listed.cache_clear()
    for file in Path(args.config_dir).glob("*/**/*.yaml"):
        # Hydra would take the program's own, and say nothing.
        if (config.conf_dir() / file.relative_to(args.config_dir)).exists():
            raise UserError(f"{file}: there is an option of that name already; call it otherwise")
    folder = quote("file://" + str(Path(args.config_dir).resolve()))
    return args.config_name or "config", [f"hydra.searchpath=[{folder}]"]


def _refuse_options(overrides: list[str], name: str, extra: list[str]) -> None:
    """Refuse options that a group has not; Hydra passes over them in silence where the group is optional.

    Of several options it would take the last one's keys, whatever the others are; loggers are there side by side.
    """
    for o in commandline.parse(overrides):
        if o.is_delete():
            continue
        options, value = _options(o.key_or_group, name, tuple(extra)), o.value()
        taken = (str, dict, list) if o.key_or_group == "logger" else (str, dict)
        if options and not isinstance(value, taken):
            said = commandline.line(o).partition("=")[2]
            raise ConfigError(o.key_or_group, said, f"one of {', '.join(options)}; mfrun sweep takes KEY=A,B")
        if options and isinstance(value, str) and value not in options:
            folder, _, option = value.rpartition("/")
            if folder and option in _listed(f"{o.key_or_group}/{folder}", ObjectType.CONFIG, name, tuple(extra)):
                continue
            why = f"unknown; one of {', '.join(options)}{suggest(value, options)}"
            resumed = not extra and "resume=true" in overrides
            raise ConfigError(o.key_or_group, value, why + ("; --config-dir is to be given again" if resumed else ""))


def _options(group: str, name: str, extra: tuple[str, ...]) -> list[str]:
    """The options of a group; none where it is a plain key."""
    parent, _, last = group.rpartition("/")
    # Hydra reads the first file anew for every group that it is asked for, and most keys are none.
    if "." in group or last not in _listed(parent, ObjectType.GROUP, name, extra):
        return []
    return _listed(group, ObjectType.CONFIG, name, extra)


@functools.cache
def _listed(group: str, kind: ObjectType, name: str, extra: tuple[str, ...]) -> list[str]:
    """What a group has of a kind, groups below it or options; "" is above all others."""
    loader = GlobalHydra.instance().config_loader()
    return list(loader.get_group_options(group, kind, config_name=name, overrides=list(extra)))


def _explain(error: Exception, overrides: list[str], name: str, extra: list[str]) -> UserError:
    """Hydra's messages, which span paragraphs, as one line that names the override to blame."""
    parsed = commandline.parse(overrides)
    groups = [commandline.line(o) for o in parsed if _options(o.key_or_group, name, tuple(extra))]
    try:
        base = hydra.compose(name, overrides=[*groups, *extra])
    except (HydraException, OmegaConfBaseException) as own:
        return UserError(_in_a_file(own, groups, name, extra))
    for o in parsed:
        said = commandline.line(o)
        try:
            hydra.compose(name, overrides=[*(g for g in groups if g != said), said, *extra])
        except (HydraException, OmegaConfBaseException) as own:
            parent, _, last = o.key_or_group.rpartition(".")
            siblings = OmegaConf.select(base, parent) if parent else base
            why = _root_reason(own)
            if o.key_or_group.startswith("hydra.launcher.") and _UNKNOWN.search(why):
                return UserError(f"{said}: {_of_another_launcher(o.key_or_group, groups, name, extra)}")
            if why == NODE and isinstance(siblings, DictConfig) and isinstance(siblings.get(last), DictConfig):
                why += "".join(f", {o.key_or_group}.{key}" for key in siblings[last])
            if not isinstance(siblings, DictConfig) or last in siblings or said in groups or parent == "hydra":
                return UserError(f"{said}: {why}")
            if parent:
                known = [str(k) for k in siblings if k != "name"]
                here = f"keys here are {', '.join(known)}" if known else f"{parent} has no keys"
            else:
                known, here = [*config.flatten(plain(base)), *map(str, base)], "mfrun train --help lists them"
                if last in ELSEWHERE:
                    return UserError(f"{said}: unknown key; {ELSEWHERE[last]}")
            return UserError(f"{said}: unknown key; {here}{suggest(last, known)}")
    return UserError(_root_reason(error))


def _of_another_launcher(key: str, groups: list[str], name: str, extra: list[str]) -> str:
    """That the launcher which is chosen has no such key, and which of the program's own have."""
    whole = hydra.compose(name, overrides=[*groups, *extra], return_hydra_config=True)
    files = sorted(Path(config.conf_dir(), "hydra", "launcher").glob("*.yaml"))
    having = ", ".join(f"hydra/launcher={file.stem}" for file in files if key.split(".")[2] in load_yaml(file))
    chosen = f"hydra/launcher={whole.hydra.runtime.choices['hydra/launcher']}"
    return f"{chosen} has no such key" + (f"; it is a key of {having}" if having else "")


def _in_a_file(error: Exception, groups: list[str], name: str, extra: list[str]) -> str:
    """What is wrong in a YAML file that the command line has chosen, by file, key and value."""
    text = str(error)
    found = re.match(r"In '([^']+)'", text)
    file = found[1] if found else name
    if file == name:
        # Hydra names the file that it started from; the one to blame is an option that cannot be composed by itself.
        for group in groups:
            try:
                hydra.compose(name, overrides=[group, *extra])
            except (HydraException, OmegaConfBaseException):
                file = group.replace("=", "/", 1)
    folders = [Path(word.split("file://")[1].rstrip("]'")) for word in extra] + [config.conf_dir()]
    paths = [folder / f"{file}.yaml" for folder in folders]
    place = str(next((path for path in paths if path.is_file()), f"{file}.yaml"))
    lost = re.search(r"Could not find '([^']+)'", text)
    if lost:
        group, _, option = lost[1].rpartition("/")
        known = _options(group, name, tuple(extra))
        choice = f"; one of {', '.join(known)}{suggest(option, known)}" if known else ""
        return f"{place}: {group}: {option}: there is no such file{choice}"
    key, value = re.search(r"full_key: (\S+)", text), re.search(r"Value '(.*?)' of type", text)
    if key is None:
        return f"{place}: {_root_reason(error)}"
    if _UNKNOWN.search(text):
        return f"{place}: {key[1]}: unknown key{suggest(key[1], sorted(commandline.KEYS))}"
    shown = f"{key[1]}: {value[1]}" if value else key[1]
    return f"{place}: {shown}: {reason(Exception(text))}"


def _root_reason(error: BaseException) -> str:
    """What is wrong, in the words of the error that the others were raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return reason(error)
