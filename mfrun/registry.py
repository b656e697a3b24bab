"""Named components: a new activation, loss, schedule or data set is one class in its own module and one YAML file.

A component is a dataclass whose fields are its configuration keys; the registry checks a configuration node against
the fields (unknown keys, types) and the class's ``__post_init__`` checks the values. A name with a colon,
``package.module:Class``, is the user's own class; it is imported because the user's configuration names it.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mfrun.errors import ConfigError

T = TypeVar("T")

_COMPONENTS: dict[str, dict[str, Any]] = {}
# What makes a component of a plain function, what is asked of a class of the user's own, and its base; by kind.
_OF_FUNCTIONS: dict[str, Callable[[Any, str], Any]] = {}
_CHECKS: dict[str, Callable[[Any, str], None]] = {}
_BASES: dict[str, type] = {}
_distrusted: set[str] = set()
# Where each kind is defined; importing the modules fills its part of the table.
_HOMES: dict[str, tuple[str, ...]] = {
    "dataset": (
        "mfrun.problems.datasets",
        "mfrun.problems.arrays",
        "mfrun.problems.features",
        "mfrun.dynamics.teacher",
    ),
    "loss": ("mfrun.problems.losses",),
    "test_function": ("mfrun.problems.observables",),
    "architecture": ("mfrun.networks.fully_connected", "mfrun.networks.cnn"),
    "activation": ("mfrun.networks.activations",),
    "neuron": ("mfrun.networks.neurons",),
    "operation": ("mfrun.networks.operations",),
    "init": ("mfrun.networks.init", "mfrun.networks.embedding"),
    "law": ("mfrun.networks.laws",),
    "scaling": ("mfrun.networks.scaling",),
    "schedule": ("mfrun.dynamics.schedules",),
    "logger": ("mfrun.runs.loggers", "mfrun.runs.tracking", "mfrun.study.tensorboard"),
}

# What is said of a value in the place of several keys.
NODE = "is a node with keys of its own; set those"
_WORDS = {
    "could not be converted to Integer": "must be a whole number, without point or exponent",
    "could not be converted to Float": "must be a number",
    "is not a valid bool": "must be true or false",
    "is not a ListConfig, list or tuple": "must be a list, [A,B,...]",
    "is not a subclass of": NODE,
    "to Dict[str": NODE,
    "Cannot merge DictConfig with": NODE,
    "is not Optional": "may not be null",
}


# Types of keys, as annotations have them, whose entries hold nothing.
_FLAT = ("list[float]", "list[int]", "list[str]")


def register(kind: str, name: str) -> Callable[[T], T]:
    """Class (or function) decorator: make the component known as ``name`` among those of its ``kind``."""

    def add(component: T) -> T:
        _COMPONENTS.setdefault(kind, {})[name] = component
        return component

    return add


def of_functions(kind: str) -> Callable[[T], T]:
    """Decorator: a plain function of the user's own may stand for a component of this kind, through this."""

    def add(adapter: T) -> T:
        _OF_FUNCTIONS[kind] = adapter  # type: ignore[assignment]
        return adapter

    return add


def checks(kind: str) -> Callable[[T], T]:
    """Decorator: every class of the user's own of this kind is held to this when it is made."""

    def add(check: T) -> T:
        _CHECKS[kind] = check  # type: ignore[assignment]
        return check

    return add


def base(kind: str) -> Callable[[T], T]:
    """Class decorator: a class of the user's own of this kind is a subclass of this."""

    def add(component: T) -> T:
        _BASES[kind] = component  # type: ignore[assignment]
        return component

    return add


def find(kind: str, name: object, key: str) -> Any:
    """The component called ``name``.

    Args:
        kind: a key of the table above.
        name: a registered name, or ``package.module:attribute`` for the user's own.
        key: the configuration key that holds the name, for the message.

    Raises:
        ConfigError: no such component.
    """
    for home in _HOMES[kind]:
        importlib.import_module(home)
    table = _COMPONENTS[kind]
    if isinstance(name, str) and ":" in name:
        found = imported(name, key)
        _refuse_unless_based(kind, found, name, key)
        return found
    if not isinstance(name, str) or name not in table:
        raise ConfigError(key, name, f"unknown; one of {', '.join(sorted(table))}{suggest(str(name), table)}")
    return table[name]


def _refuse_unless_based(kind: str, component: Any, name: str, key: str) -> None:
    """Raises ConfigError where a class of the user's own is not what its kind asks for."""
    wanted = _BASES.get(kind)
    if wanted is None or not isinstance(component, type):
        return
    if not issubclass(component, wanted):
        raise ConfigError(key, name, f"is no subclass of {wanted.__module__}.{wanted.__name__}")
    if inspect.isabstract(component):
        raise ConfigError(key, name, f"lacks {', '.join(sorted(vars(component)['__abstractmethods__']))}")


def imported(name: str, key: str) -> Any:
    """The user's own object ``package.module:attribute``.

    Raises:
        ConfigError: of another form, or it cannot be imported, or only a run directory names it.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ConfigError(key, name or "''", "names an object of your own as package.module:name")
    if name in _distrusted and name not in os.environ.get("MFRUN_IMPORT", "").split(","):
        trusted = f"where you trust it, set MFRUN_IMPORT={name}, or type the key again as you resume"
        why = f"is named by the run's folder alone; {trusted}"
        raise ConfigError(key, name, why)
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # It runs the user's own code.
        known = isinstance(error, ImportError | AttributeError | ValueError)
        what = str(error) if known and not isinstance(error, SyntaxError) else f"{type(error).__name__}: {error}"
        top = module.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and error.name == top
        hint = f"; {top}.py lies in a folder of PYTHONPATH?" if missing else ""
        raise ConfigError(key, name, f"cannot be imported ({what}){hint}") from error


def distrust(names: set[str]) -> None:
    """Do not import these names, which were read from a run directory, until the next call (docs/security.md)."""
    _distrusted.clear()
    _distrusted.update(names)


def names(kind: str) -> list[str]:
    """The registered names of a kind."""
    for home in _HOMES[kind]:
        importlib.import_module(home)
    return sorted(_COMPONENTS[kind])


def names_in(value: object) -> set[str]:
    """All texts in a configuration that may be a ``package.module:attribute``."""
    if isinstance(value, Mapping):
        return set().union(*map(names_in, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(names_in, value))
    return {value} if isinstance(value, str) and ":" in value else set()


def create(kind: str, node: Mapping[str, Any], key: str) -> Any:
    """Build the component that a configuration node describes.

    Args:
        kind: as for :func:`find`.
        node: ``name`` and the component's own keys.
        key: the node's full key, for the messages.

    Raises:
        ConfigError: unknown name, unknown key, wrong type, or a value that the component refuses.
    """
    if "name" not in node:
        raise ConfigError(f"{key}.name", "(missing)", f"names the {kind}")
    component = find(kind, node["name"], f"{key}.name")
    if kind in _OF_FUNCTIONS and callable(component) and not isinstance(component, type):
        keys = [k for k in node if k != "name"]
        if keys:
            raise ConfigError(f"{key}.{keys[0]}", node[keys[0]], "unknown key; a function has no keys")
        return _OF_FUNCTIONS[kind](component, str(node["name"]))
    if not (isinstance(component, type) and dataclasses.is_dataclass(component)):
        raise ConfigError(f"{key}.name", node["name"], "is no dataclass; its fields would be the keys")
    made = conform(component, {k: v for k, v in node.items() if k != "name"}, key)
    if ":" in str(node["name"]):
        if kind in _BASES:
            lacking = [name for name in inspect.get_annotations(_BASES[kind]) if not hasattr(made, name)]
            if lacking:
                raise ConfigError(f"{key}.name", node["name"], f"lacks {', '.join(lacking)}")
        if kind in _CHECKS:
            _CHECKS[kind](made, str(node["name"]))
    return made


def conform(component: type[T], given: Mapping[str, Any], key: str) -> T:
    """An instance of a dataclass from a configuration node, with keys, types and values checked.

    Raises:
        ConfigError: unknown key, wrong type, or a value that the class refuses.
    """
    fields = [f.name for f in dataclasses.fields(component)]  # type: ignore[arg-type]
    for k in given:
        if k not in fields:
            known = f"keys here are {', '.join(fields)}" if fields else "no keys here"
            raise ConfigError(f"{key}.{k}", given[k], f"unknown key; {known}{suggest(str(k), fields)}")
    try:
        values = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(component), dict(given)))
    except OmegaConfBaseException as error:
        bad, entry, _ = str(error.full_key or "").partition("[")
        why = f"each {reason(error)}" if entry else reason(error)
        raise ConfigError(f"{key}.{bad}".rstrip("."), given.get(bad, "?"), why) from error
    assert isinstance(values, dict)
    for field in dataclasses.fields(component):  # type: ignore[arg-type]
        # OmegaConf lets lists pass as the entries of any list.
        value = values[field.name]
        if field.type in _FLAT and any(isinstance(entry, list | dict) for entry in value or ()):
            raise ConfigError(f"{key}.{field.name}", value, "is a list of single values, [A,B,...]")
    try:
        return component(**{str(k): v for k, v in values.items()})
    except ConfigError as error:
        # A component names its own key; the user types the full one.
        full = error.key if error.key.startswith(f"{key}.") else f"{key}.{error.key}"
        raise ConfigError(full, error.value, error.allowed) from None


def reason(error: BaseException) -> str:
    """What an OmegaConf or Hydra message says: in plainer words where there are some, else its first line."""
    text = str(error).strip()
    for known, words in _WORDS.items():
        if known in text:
            return words
    return text.splitlines()[0].strip() if text else type(error).__name__


def quote(text: str) -> str:
    """A text in quotes, as Hydra's grammar of overrides has it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def suggest(given: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` where one of ``known`` is close to ``given``, else nothing."""
    # MNIST and mnist have no letter in common.
    spelt = {name.lower(): name for name in known}
    close = difflib.get_close_matches(given.lower(), spelt, n=1)
    return f"; did you mean {spelt[close[0]]}?" if close else ""
