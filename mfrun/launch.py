"""``mfrun train`` and ``mfrun sweep``: from the words of the command line to runs, through Hydra."""

from __future__ import annotations

import itertools
import json
import sys
import traceback
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mfrun import config, help
from mfrun.errors import ConfigError, UserError
from mfrun.registry import reason, suggest
from mfrun.run import RunDirectory, read_sweep, write_sweep

# Hydra's flags that print something and train nothing.
_PRINTING = ("--cfg", "-c", "--info", "-i", "--hydra-help", "--shell-completion", "-sc", "--version")
_HERE = {"train": "mfrun train", "sweep": "mfrun sweep"}
# Told after Hydra has returned: (what, exit code) of the jobs of this process.
_problems: dict[str, Any] = {}
_failures: list[Exception] = []


def train(argv: list[str]) -> int:
    """Train one configuration."""
    if _only_prints("train", argv):
        return 0
    flags, overrides = _split(argv)
    parsed = _parse(overrides)
    swept = [o.input_line for o in parsed if o.is_sweep_override()]
    if swept:
        raise UserError(f"{swept[0]}: several values; mfrun sweep trains one run for each")
    node = _compose(overrides, flags)
    run_dir = Path(str(node.dir))
    if node.resume:
        overrides = [*_saved_overrides(run_dir), *overrides]
        node = _compose(overrides, flags)
    _validate(node)
    if RunDirectory(run_dir).exists() and not node.resume:
        raise UserError(f"dir={run_dir}: holds a run already; resume=true goes on with it")
    _hydra("train", [*overrides, f"dir={_quote(str(run_dir))}", *flags])
    if _failures:
        raise _failures[0]
    status = RunDirectory(run_dir).status()
    from mfrun.study.status import table

    print(table([RunDirectory(run_dir)]))
    return 3 if status["state"] == "diverged" else 0


def sweep(argv: list[str]) -> int:
    """Train every width, and every value of every swept key: a Hydra multirun."""
    if _only_prints("sweep", argv):
        return 0
    flags, overrides = _split(argv)
    flags = [f for f in flags if f not in ("-m", "--multirun")]
    base = _compose([_first_value(o) for o in _parse(overrides)], flags)
    top = Path(str(base.dir))
    recorded = read_sweep(top)
    if recorded and not base.resume:
        raise UserError(f"dir={top}: holds a sweep already; resume=true goes on with it")
    if base.resume:
        if recorded is None:
            raise UserError(f"dir={top}: no sweep to resume here")
        given = {o.key_or_group for o in _parse(overrides)}
        old = [o for o in recorded["overrides"] if _parse([o])[0].key_or_group not in given]
        overrides = [*old, *overrides]
        base = _compose([_first_value(o) for o in _parse(overrides)], flags)

    parsed = _parse(overrides)
    if not any(o.key_or_group == "width" for o in parsed):
        widths = [config.width_label(config.parse_width(w, "widths")) for w in base.widths]
        if not widths:
            raise ConfigError("widths", "[]", "a sweep needs at least one width")
        if len(set(widths)) < len(widths):
            raise ConfigError("widths", list(base.widths), "holds a width twice")
        parsed = [*parsed, *_parse([f"width={','.join(widths)}"])]
    jobs = _jobs(parsed)
    nodes = [_compose(job, flags) for job in jobs]
    local = not any(f.startswith("hydra/launcher=") for f in overrides)
    for node in nodes:
        _validate(node, load=local)
    if base.resume:
        _refuse_orphans(top, [_subdirectory(parsed, job) for job in jobs])

    lasting = [o for o in overrides if _parse([o])[0].key_or_group not in ("resume", "dir")]
    write_sweep(top, {"overrides": lasting, "swept": _swept_keys(parsed)})
    arguments = [o.input_line for o in parsed if o.key_or_group != "dir"]
    name = ",".join(f"{k}={_value_of(k)}" for k in _swept_keys(parsed) or ["width"])
    _hydra("sweep", [*arguments, f"dir={_quote(str(top))}", f"hydra.sweep.subdir='{name}'", "--multirun", *flags])
    from mfrun.study.status import table

    runs = [RunDirectory(top / _subdirectory(parsed, job)) for job in jobs]
    print(table(runs))
    print(f"\nmfrun plot {top}")
    states = {run.status()["state"] for run in runs}
    return 1 if _failures or "failed" in states else 0


def _task(node: DictConfig) -> str:
    """What Hydra runs for every job, here or in the process that a launcher started."""
    run = RunDirectory(HydraConfig.get().runtime.output_dir)
    from mfrun.dynamics.train import train as train_run

    try:
        cfg = config.check(node)
        return str(train_run(cfg, config.content(node), run, _problem(node, cfg))["state"])
    except UserError as error:
        _failures.append(error)
        if HydraConfig.get().mode == hydra.types.RunMode.MULTIRUN:
            print(f"mfrun: {run.path.name}: {error}", file=sys.stderr)
        return "failed"
    except Exception as error:
        # One broken job must not take the rest of a sweep with it.
        _failures.append(error)
        print(f"mfrun: {run.path.name}: {type(error).__name__}: {error}", file=sys.stderr)
        if HydraConfig.get().mode == hydra.types.RunMode.MULTIRUN:
            traceback.print_exc(file=sys.stderr)
        return "failed"


def _validate(node: DictConfig, load: bool = True) -> None:
    """Refuse bad values before anything is written; with ``load``, bad data too."""
    cfg = config.check(node)
    if load:
        from mfrun.experiment import assemble

        assemble(cfg, _problem(node, cfg))


def _problem(node: DictConfig, cfg: config.Config) -> Any:
    """The data set, loaded once for all jobs of this process that share it."""
    from mfrun.experiment import load_problem

    key = json.dumps([OmegaConf.to_container(node.dataset, resolve=True), cfg.dtype, cfg.device], sort_keys=True)
    if key not in _problems:
        _problems.clear()
        _problems[key] = load_problem(cfg)
    return _problems[key]


def _hydra(command: str, argv: list[str]) -> None:
    """Hand over to Hydra, as if it had been called from the shell."""
    _failures.clear()
    config.store_schema()
    before, sys.argv = sys.argv, [_HERE[command], *argv]
    GlobalHydra.instance().clear()
    try:
        hydra.main(config_path=str(config.conf_dir()), config_name="config", version_base="1.3")(_task)()
    finally:
        sys.argv = before


def _only_prints(command: str, argv: list[str]) -> bool:
    """Answer the calls that train nothing: --help, and Hydra's own printing flags."""
    if "--help" in argv or "-h" in argv:
        print(help.text(command))
        return True
    if any(a.split("=")[0] in _PRINTING for a in argv):
        _hydra(command, argv)
        return True
    return False


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """(flags with their values, overrides)."""
    flags: list[str] = []
    overrides: list[str] = []
    words = iter(argv)
    for word in words:
        if word in ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p"):
            flags += [word, next(words, "")]
        elif word.startswith("-"):
            flags.append(word)
        else:
            overrides.append(word)
    return flags, overrides


def _parse(overrides: list[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(overrides)
    except OverrideParseException as error:
        raise UserError(f"{error.override}: not of the form KEY=VALUE ({_parser_words(error)})") from error


def _parser_words(error: Exception) -> str:
    return reason(error).replace("\n", " ")


def _compose(overrides: list[str], flags: list[str] | None = None) -> DictConfig:
    """The configuration that Hydra will compose, or one line that says why it will not."""
    config.store_schema()
    flags = flags or []
    extra = [
        f"hydra.searchpath=[{_quote('file://' + str(Path(flags[i + 1]).resolve()))}]"
        for i, f in enumerate(flags)
        if f in ("--config-dir", "-cd") and i + 1 < len(flags)
    ]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config.conf_dir()), version_base="1.3", job_name="mfrun"):
        try:
            node = compose("config", overrides=[*overrides, *extra])
        except (HydraException, OmegaConfBaseException) as error:
            raise _explain(error, overrides) from error
    missing = sorted(OmegaConf.missing_keys(node))
    if missing:
        raise ConfigError(missing[0], "(missing)", "has no default and must be given")
    try:
        OmegaConf.resolve(node)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error.full_key or "config"), "?", reason(error)) from error
    return node


def _explain(error: Exception, overrides: list[str]) -> UserError:
    """Hydra's messages, which span paragraphs, as one line."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = list(error.options or [])
        if not options:
            return UserError(f"{group}={option}: {reason(error)}")
        return ConfigError(group, option, f"unknown; one of {', '.join(options)}{suggest(option, options)}")
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    text = "; ".join(dict.fromkeys(reason(e) for e in chain if isinstance(e, Exception)))
    for o in _parse(overrides):
        key = o.key_or_group
        if "not in struct" in text or "Could not find" in text or "No match in the defaults list" in str(error):
            known = config.flatten(_known_keys())
            groups = [p.name for p in config.conf_dir().iterdir() if p.is_dir()]
            if key not in known and key not in groups and key.split(".")[0] not in ("hydra", *_open_nodes(key)):
                return ConfigError(key, o.get_value_string() if not o.is_delete() else "", "unknown key"
                                   + (suggest(key, [*known, *groups]) or "; mfrun train --help lists them"))
    for o in _parse(overrides):
        if f"'{o.input_line}'" in text or f" {o.input_line}" in text or o.key_or_group in text:
            return UserError(f"{o.input_line}: {text}")
    return UserError(text)


def _open_nodes(key: str) -> tuple[str, ...]:
    """Nodes whose keys the component checks, not the schema."""
    head = key.split(".")[0]
    return (head,) if "." in key and head in ("dataset", "architecture", "activation", "loss", "schedule") else ()


def _known_keys() -> dict[str, Any]:
    plain = OmegaConf.to_container(OmegaConf.structured(config.Config))
    assert isinstance(plain, dict)
    return {str(k): v for k, v in plain.items()}


def _saved_overrides(run_dir: Path) -> list[str]:
    """What the run in a folder was started with."""
    file = run_dir / ".hydra" / "overrides.yaml"
    if not RunDirectory(run_dir).exists() or not file.is_file():
        raise UserError(f"dir={run_dir}: no run to resume here")
    try:
        saved = OmegaConf.load(file)
    except Exception as error:
        raise UserError(f"{file}: cannot be read") from error
    return [str(o) for o in saved if not str(o).startswith(("resume=", "dir="))]


def _first_value(o: Override) -> str:
    return o.input_line if not o.is_sweep_override() else f"{o.input_line.split('=')[0]}={_values(o)[0]}"


def _values(o: Override) -> list[str]:
    return list(o.sweep_string_iterator())


def _jobs(parsed: list[Override]) -> list[list[str]]:
    """The overrides of every job, in the order in which Hydra runs them."""
    columns = [
        [f"{o.input_line.split('=')[0]}={v}" for v in _values(o)] if o.is_sweep_override() else [o.input_line]
        for o in parsed
    ]
    return [list(job) for job in itertools.product(*columns)]


def _swept_keys(parsed: list[Override]) -> list[str]:
    keys = [o.key_or_group for o in parsed if o.is_sweep_override()]
    return ["width", *(k for k in keys if k != "width")]


def _is_group(key: str) -> bool:
    return (config.conf_dir() / key).is_dir()


def _value_of(key: str) -> str:
    return f"${{hydra:runtime.choices.{key}}}" if _is_group(key) else f"${{{key}}}"


def _subdirectory(parsed: list[Override], job: list[str]) -> str:
    """The folder of one job below the sweep's, as ``hydra.sweep.subdir`` names it."""
    given = {o.key_or_group: o for o in _parse(job)}
    node = _compose(job)
    parts = []
    for key in _swept_keys(parsed):
        value = given[key].value() if _is_group(key) and key in given else OmegaConf.select(node, key)
        parts.append(f"{key}={value}")
    return ",".join(parts)


def _refuse_orphans(top: Path, names: list[str]) -> None:
    """Every run that the folder holds must be one of the resumed sweep's; widths and values may be added."""
    held = [p.parent.name for p in top.glob("*/config.yaml")]
    lost = [name for name in held if name not in names]
    if lost:
        raise UserError(f"dir={top}: holds {lost[0]}, which the sweep to resume has not; a resumed sweep may only grow")


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

