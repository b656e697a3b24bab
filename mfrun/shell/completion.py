"""``mfrun completion bash``: code for the shell, which asks the hidden ``mfrun _complete LINE`` for what may come next.

Keys, groups and options of ``train``, ``sweep``, ``check``, ``predict`` and ``data`` are Hydra's own completion over
``conf/``. No command is run, and torch is not imported: an answer must come at the press of a key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from mfrun.errors import UserError

Commands = Mapping[str, Callable[[list[str]], int]]

SCRIPTS = {
    # Where COMP_WORDBREAKS holds "=", bash replaces only what follows it; what stands before is cut off here too.
    "bash": """\
_mfrun() {
  local line="${COMP_LINE:0:COMP_POINT}" cut
  local word="${line##* }" IFS=$'\\n'
  COMPREPLY=($(mfrun _complete "$line" 2>/dev/null))
  [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} != *[=./] ]] || compopt -o nospace
  cut="${word%"${word##*[=:]}"}"
  [[ $COMP_WORDBREAKS == *=* && $word == *[=:]* ]] && COMPREPLY=("${COMPREPLY[@]#"$cut"}")
}
complete -o default -F _mfrun mfrun
""",
    "zsh": """\
_mfrun() {
  local -a found
  found=(${(f)"$(mfrun _complete "${LBUFFER}" 2>/dev/null)"})
  (( $#found )) && compadd -Q -S '' -- $found || _files
}
compdef _mfrun mfrun
""",
    "fish": """\
complete -c mfrun -a '(mfrun _complete (commandline -cp) 2>/dev/null)'
""",
}

_FLAGS = ("--cfg", "--info", "--config-dir", "--debug")
# What each command takes beside file names.
OPTIONS = {
    "train": ("--help", "--latest", *_FLAGS),
    "sweep": ("--help", "--dry-run", "--latest", *_FLAGS),
    "predict": ("--help", "--accuracy", "--networks", "--tolerance", "--metrics", "--format", *_FLAGS),
    "check": ("--help", "--train", *_FLAGS),
    "data": ("--help", "--config-dir", "--debug"),
    "completion": tuple(SCRIPTS),
}
# Values of keys, beside those of config.CHOICES, and of options, which only modules know that import torch, or nobody.
CHOICES = {
    "device": ("auto", "cpu", "cuda"),
    "init.law": ("normal", "rademacher", "uniform"),
    "particles.method": ("sobol", "antithetic", "plain"),
    "stand_in.measure": ("sampled", "spread", "drawn"),
    "--cfg": ("job", "hydra", "all"),
    "--yscale": ("log", "linear"),
}


def main(argv: list[str]) -> int:
    """Print the code for one shell."""
    if len(argv) == 1 and argv[0] in SCRIPTS:
        print(SCRIPTS[argv[0]], end="")
        return 0
    if argv and argv[0] in ("-h", "--help"):
        print('usage: mfrun completion {bash,zsh,fish}\n\n  eval "$(mfrun completion bash)"    in ~/.bashrc')
        return 0
    raise UserError(f"completion {' '.join(argv)}".rstrip() + f": give one shell of {', '.join(SCRIPTS)}")


def complete(argv: list[str], commands: Commands) -> int:
    """Print what the last word of the line in ``argv[0]`` may become, one a line; nothing leaves it to file names."""
    print("\n".join(candidates(argv[0] if argv else "", commands)))
    return 0


def candidates(line: str, commands: Commands) -> list[str]:
    """What the last word of a command line may become."""
    _, *words = line.split() or [""]
    if line.endswith(" "):
        words.append("")
    if len(words) < 2:
        return _starting([c for c in commands if not c.startswith("_")], words[0] if words else "")
    command, word = words[0], words[-1]
    if word.startswith("-") or command == "completion":
        return _starting(OPTIONS.get(command) or _options(command, commands), word)
    if chosen := _choices(command, words[-2]):
        return _starting(chosen, word)
    if command == "data":
        return _data(words[1:])
    return _overrides(words[1:]) if command in ("train", "sweep", "check", "predict") else []


def _data(words: list[str]) -> list[str]:
    """The name of a data set first, then its keys."""
    *before, last = words
    if not before:
        return [f.removeprefix("dataset=") for f in _overrides([f"dataset={last}"])]
    return _overrides([f"dataset={before[0]}", *before[1:], last])


def _starting(names: tuple[str, ...] | list[str], word: str) -> list[str]:
    return [name for name in names if name.startswith(word)]


def _options(command: str, commands: Commands) -> list[str]:
    """The options that a command's own parser knows."""
    import contextlib
    import io
    import re

    text = io.StringIO()
    if command in commands:
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            commands[command](["--help"])
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text.getvalue())))


def _choices(command: str, option: str) -> tuple[str, ...]:
    """The values that an option takes; none where it takes others, or is no option."""
    from mfrun.shell import options

    parser = getattr(options, command, None)
    if not option.startswith("-") or option in CHOICES or parser is None:
        return CHOICES.get(option, ())
    return next((tuple(a.choices or ()) for a in parser()._actions if option in a.option_strings), ())


def _overrides(words: list[str]) -> list[str]:
    """Hydra's answer for the last of several overrides."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path
    from hydra.core.plugins import Plugins
    from hydra.errors import HydraException
    from hydra.plugins.completion_plugin import DefaultCompletionPlugin
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from mfrun import config
    from mfrun.shell.commandline import config_dirs

    key, equals, value = words[-1].partition("=")
    # Of a key's several values, KEY=A,B, the last is completed; those of earlier words do not matter.
    before = value[: value.rfind(",") + 1]
    choices = (config.CHOICES | CHOICES).get(key, ())
    if equals and choices:
        return _starting([f"{key}={before}{choice}" for choice in choices], words[-1])
    config.store_schema()
    Plugins.instance()
    loader = ConfigLoaderImpl(create_config_search_path(str(config.conf_dir())))
    done = [w.split(",")[0] for w in words[:-1] if "=" in w and "[" not in w and not w.startswith("-")]
    done += [f"hydra.searchpath=['file://{Path(folder).resolve()}']" for folder in config_dirs(words[:-1])]
    asked = f"{key}={value.removeprefix(before)}" if before else words[-1]
    try:
        node = loader.load_configuration("config", overrides=done, run_mode=RunMode.RUN)
    except HydraException:  # An earlier word is wrong; groups can be completed all the same.
        done, node = [], loader.load_configuration("config", overrides=[], run_mode=RunMode.RUN)
    if equals and isinstance(OmegaConf.select(node, key, throw_on_resolution_failure=False), bool):
        return _starting([f"{key}={before}{choice}" for choice in ("true", "false")], words[-1])
    found = DefaultCompletionPlugin(loader)._query("config", " ".join([*done, asked]) or " ")
    answers = []
    for f in found:
        # The workings of Hydra are told to those who ask for them.
        if f.startswith("hydra") and not key.startswith("hydra"):
            continue
        if f.endswith(".") and OmegaConf.is_list(OmegaConf.select(node, f[:-1])):
            f = f"{f[:-1]}="
        answers.append(f.replace(f"{key}=", f"{key}={before}", 1) if before else f)
    return answers
