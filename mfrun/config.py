"""The typed schema of every key, and the checks that need no more than the values themselves.

What each key means stands beside it in ``conf/``, the one place where people read and edit it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mfrun.errors import ConfigError
from mfrun.registry import reason, suggest


@dataclass
class IIDConfig:
    """Types of the keys of ``conf/init/normal.yaml``, so that 3 and 3.0 name one value and one folder of a sweep."""

    name: str = "iid"
    law: str = "normal"
    tau1: float = 1.4142135623730951
    mu2: float = 1.0
    tau2: float = 0.1
    mu3: float = 0.0
    tau3: float = 0.0


@dataclass
class SeedConfig:
    """Separate sources of randomness."""

    init: int = 0
    data: int = 0
    eval: int = 0


@dataclass
class EvaluationConfig:
    """When and on what the metrics are measured."""

    points_per_decade: int = 10
    samples: int = 10000
    test_functions: list[str] = field(default_factory=list)
    kernels: int = 0


@dataclass
class Config:
    """All keys of a run. Nodes of type dict are checked by the component that they name."""

    dataset: dict[str, Any] = field(default_factory=dict)
    architecture: dict[str, Any] = field(default_factory=dict)
    activation: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    # A run from before there was a choice had these.
    init: dict[str, Any] = field(default_factory=lambda: {"name": "iid"})
    scaling: dict[str, Any] = field(default_factory=lambda: {"name": "mean_field"})
    neuron: dict[str, Any] = field(default_factory=lambda: {"name": "bias"})
    operation: dict[str, Any] = field(default_factory=lambda: {"name": "product"})
    depth: int = 4
    width: Any = 100
    widths: list[Any] = field(default_factory=list)
    particles: dict[str, Any] = field(default_factory=dict)
    neurons: int | None = None
    stand_in: dict[str, Any] = field(default_factory=dict)
    perturbed: int = 0
    predict: dict[str, Any] = field(default_factory=dict)
    replicates: int = 1
    replicate_data: str = "shared"
    alpha: float = 0.01
    batch: int = 100
    steps: int = 10000
    budget: float = 1.0
    sampling: str = "iid"
    seed: SeedConfig = field(default_factory=SeedConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    dtype: str = "float32"
    precision: str = "float32"
    device: str = "auto"
    threads: int | None = None
    checkpoint_seconds: float = 60.0
    keep_checkpoints: int = 0
    logger: dict[str, Any] = field(default_factory=dict)
    title: str | None = None
    dir: str = ""
    resume: bool = False


# The largest width, of which a draw of the neurons' types is exact.
WIDEST = 10**18
# Keys that say where the data lie, not what they are; those of a root are public, and those of a path the user's own.
ROOTS = ("dataset.root", "dataset.source.root")
PATHS = ("dataset.path", "dataset.source.path")
PLACES = (*ROOTS, *PATHS)
# Keys that say how a run is carried out, not what it computes: these may differ when it is resumed.
EXECUTION = (
    "widths",
    "budget",
    "device",
    "threads",
    "checkpoint_seconds",
    "keep_checkpoints",
    "logger",
    "title",
    "dir",
    "resume",
)

# What runs that are older than a key of a component had.
BEFORE = {
    "particles.union": False,
    "particles.inner": 512,
    "architecture.frozen": [],
    "architecture.output_scale": 1.0,
}

CHOICES = {
    "replicate_data": ("shared", "independent"),
    "sampling": ("iid", "epochs"),
    "dtype": ("float32", "float64"),
    "precision": ("float32", "tf32", "bf16"),
}


def store_schema() -> None:
    """Make the schema known to Hydra; ``conf/config.yaml`` starts from it."""
    OmegaConf.register_new_resolver("depth_of", _depth_of, replace=True)
    OmegaConf.register_new_resolver("in_name", _in_name, replace=True)
    ConfigStore.instance().store(name="mfrun_schema", node=Config)
    ConfigStore.instance().store(group="schema", name="iid", node=IIDConfig)


def _depth_of(layers: object) -> int:
    """What ``${depth_of:${architecture.layers}}`` stands for: a layer for each entry, and the output."""
    # What is no list of layers is refused where it is used, in the words of its own key.
    return 1 + len(layers) if isinstance(layers, ListConfig) and layers else 2


def _in_name(value: object) -> str:
    """What ``${in_name:${dataset.path}}`` stands for: a value as a part of a folder's name, of which / is no part."""
    return str(value).strip("/").replace("/", "_")


def conf_dir() -> Path:
    """The folder of YAML files: inside an installed package, beside it in a checkout."""
    here = Path(__file__).resolve().parent
    return here / "conf" if (here / "conf" / "config.yaml").exists() else here.parent / "conf"


def parse_width(value: object, key: str = "width") -> float:
    """A width as a number: an int >= 1, or ``math.inf``.

    Raises:
        ConfigError: anything else.
    """
    if isinstance(value, str) and value.strip().lower().lstrip("+.") in ("inf", "infinity"):
        return math.inf
    if isinstance(value, float) and value == math.inf:
        return math.inf
    if isinstance(value, float) and value.is_integer():  # A YAML file's 1.0e+6.
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= WIDEST:
        raise ConfigError(key, value, f"a width is a whole number of neurons from 1 to {WIDEST:.0e}, or inf")
    return value


def width_label(width: float) -> str:
    """``400``, ``1e6`` or ``inf``, as a person would type it."""
    if math.isinf(width):
        return "inf"
    short = f"{width:.2e}"
    if width < 1e6 or float(short) != width:
        return str(int(width))
    digits, _, exponent = short.partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def stood_label(width: float, neurons: float | None) -> str:
    """A width as a table names it, ``1e6 by 256`` where so many neurons stand for it; None and NaN are for none."""
    return width_label(width) + (f" by {neurons:.0f}" if neurons is not None and neurons < width < math.inf else "")


def validated(node: DictConfig) -> Config:
    """The typed configuration of one run.

    Raises:
        ConfigError: a value that makes no sense whatever the data are.
    """
    for prefix, schema in {"": Config, "seed": SeedConfig, "evaluation": EvaluationConfig}.items():
        given = OmegaConf.select(node, prefix) if prefix else node
        _compare_keys(given, [f.name for f in fields(schema)], f"{prefix}." if prefix else "")
    try:
        # Nodes of components become plain mappings, whatever types their YAML files gave them.
        cfg = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.to_container(node)))
    except OmegaConfBaseException as error:
        raise ConfigError(str(error.full_key or "config"), "?", reason(error)) from error
    assert isinstance(cfg, Config)
    cfg.width = parse_width(cfg.width)
    cfg.widths = [parse_width(w, "widths") for w in cfg.widths]
    minima = {"depth": 2, "replicates": 1, "batch": 1, "steps": 0, "keep_checkpoints": 0, "perturbed": 0}
    minima |= {"evaluation.points_per_decade": 1, "evaluation.samples": 1, "evaluation.kernels": 0}
    minima |= {f"seed.{k}": 0 for k in ("init", "data", "eval")}
    for key, least in minima.items():
        value = OmegaConf.select(node, key)
        if value < least:
            note = " (layers are counted as the paper does, L hidden ones and the output)" if key == "depth" else ""
            raise ConfigError(key, value, f"must be at least {least}{note}")
    kernels, samples = cfg.evaluation.kernels, cfg.evaluation.samples
    if kernels > samples:
        raise ConfigError("evaluation.kernels", kernels, f"at most evaluation.samples={samples}, whose first they are")
    if not 0 < cfg.alpha < math.inf:
        raise ConfigError("alpha", cfg.alpha, "a learning rate is a finite number > 0")
    if not 0 < cfg.budget <= 1:
        raise ConfigError("budget", cfg.budget, "a fraction of the steps lies in (0, 1]")
    cfg.steps = _budgeted(cfg.steps, cfg.budget)
    if cfg.neurons is not None and cfg.neurons < 2:
        raise ConfigError("neurons", cfg.neurons, "must be at least 2, or null where all widths are real")
    if cfg.perturbed and not math.isinf(cfg.width):
        raise ConfigError("perturbed", cfg.perturbed, f"perturbs the limit; width=inf, not {width_label(cfg.width)}")
    if cfg.perturbed and cfg.replicate_data != "shared":
        raise ConfigError("replicate_data", cfg.replicate_data, "perturbed limits are told apart on shared samples")
    if cfg.threads is not None and cfg.threads < 1:
        raise ConfigError("threads", cfg.threads, "must be at least 1, or null for all cores")
    if not cfg.checkpoint_seconds > 0:
        raise ConfigError("checkpoint_seconds", cfg.checkpoint_seconds, "must be a number of seconds > 0")
    for key, allowed in CHOICES.items():
        if getattr(cfg, key) not in allowed:
            raise ConfigError(key, getattr(cfg, key), f"one of {', '.join(allowed)}")
    if cfg.dtype == "float64" and cfg.precision != "float32":
        raise ConfigError("precision", cfg.precision, "rounds the factors of dtype=float32; dtype=float64 has none")
    return cfg


def _compare_keys(node: DictConfig, known: list[str], prefix: str) -> None:
    """Raises ConfigError where ``+key=`` has added a key that nothing reads, or ``~key`` removed one."""
    for key in map(str, node):
        if key not in known:
            raise ConfigError(f"{prefix}{key}", node[key], f"unknown key{suggest(key, known)}")
    for key in known:
        if key not in node:
            raise ConfigError(f"{prefix}{key}", "(removed)", "is needed")


def content(node: DictConfig) -> dict[str, Any]:
    """The keys that decide what a run computes, as plain values: two runs with equal content have equal curves."""
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    kept = {str(k): v for k, v in plain.items() if k not in EXECUTION}
    # The steps themselves, so that budget=1 on resume goes on to the full length.
    kept["steps"] = _budgeted(plain["steps"], plain["budget"])
    width = parse_width(kept["width"])
    kept["width"] = "inf" if math.isinf(width) else int(width)
    if not math.isinf(width) or kept["perturbed"]:
        del kept["particles"]
    if kept["perturbed"]:
        # How many groups there are changes none of them.
        del kept["predict"]["groups"], kept["replicates"]
    else:
        del kept["perturbed"], kept["predict"]
    # A real network is the same whatever would stand for others, and the limit needs nothing to stand for it.
    if kept["neurons"] is None or not kept["neurons"] < width < math.inf:
        del kept["neurons"], kept["stand_in"]
    return kept


def _budgeted(steps: int, budget: float) -> int:
    """The steps that a fraction ``budget`` of them leaves, at least one of any."""
    return max(min(steps, 1), round(steps * budget))


def flatten(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
