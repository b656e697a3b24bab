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
    if equals and key in config.CHOICES:
        before = value[: value.rfind(",") + 1]
        return [f"{key}={before}{c}" for c in config.CHOICES[key] if c.startswith(value.removeprefix(before))]
    config.store_schema()
    Plugins.instance()
    loader = ConfigLoaderImpl(create_config_search_path(str(config.conf_dir())))
    # Of a key's several values, KEY=A,B, the last is completed; those of earlier words do not matter.
    done = [w.split(",")[0] for w in words[:-1] if "=" in w and "[" not in w and not w.startswith("-")]
    done += [f"hydra.searchpath=['file://{Path(folder).resolve()}']" for folder in config_dirs(words[:-1])]
    before = value[: value.rfind(",") + 1]
    asked = f"{key}={value.removeprefix(before)}" if before else words[-1]
    try:
        node = loader.load_configuration("config", overrides=done, run_mode=RunMode.RUN)
    except HydraException:  # An earlier word is wrong; groups can be completed all the same.
        done, node = [], loader.load_configuration("config", overrides=[], run_mode=RunMode.RUN)
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
