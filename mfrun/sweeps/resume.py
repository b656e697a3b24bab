"""What a run or sweep that is resumed was started with, as its folder says it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mfrun.errors import UserError
from mfrun.registry import distrust, names_in
from mfrun.runs.directory import SWEEP, RunDirectory, read_sweep, read_words
from mfrun.shell import commandline
from mfrun.shell.compose import compose, compose_whole


def lasting(overrides: list[str]) -> list[str]:
    """The words of a sweep's command line that are kept for those that resume it."""
    return [o for o in overrides if not _of_this_call(commandline.parse([o])[0].key_or_group)]


def _of_this_call(key: str) -> bool:
    """Whether a word of the command line is for this call alone, and not for those that resume the sweep."""
    return key in ("resume", "dir") or key.startswith(("hydra/", "hydra."))


def going_on(command: str, path: Path, flags: Sequence[str] = ()) -> str:
    """The command that goes on with what a folder holds, as it is typed."""
    return shlex.join(["mfrun", command, *flags, f"dir={path}", "resume=true"])


def words_of_run(run_dir: Path) -> list[str]:
    """The words that the run in a folder was started with.

    Raises:
        UserError: there is none.
    """
    if (run_dir / SWEEP).is_file():
        raise UserError(f"dir={run_dir}: holds a sweep; {going_on('sweep', run_dir)} goes on with it")
    file = run_dir / ".hydra" / "overrides.yaml"
    if not RunDirectory(run_dir).exists():
        held = " (its config.yaml is missing)" if file.is_file() else ""
        raise UserError(f"dir={run_dir}: no run to resume here{held}")
    saved = read_words(run_dir)
    if saved is None:
        raise UserError(f"dir={run_dir}: the words that the run was started with are missing ({file})")
    return [o for o in _checked(saved, file) if not o.startswith(("resume=", "dir="))]


def words_of_sweep(top: Path) -> list[str]:
    """The words that the sweep in a folder was started with.

    Raises:
        UserError: there is none.
    """
    recorded = read_sweep(top)
    if recorded is None and RunDirectory(top).exists():
        raise UserError(f"dir={top}: holds a run; {going_on('train', top)} goes on with it")
    if recorded is None:
        raise UserError(f"dir={top}: no sweep to resume here")
    if recorded.get("overrides") is None:
        raise UserError(f"{top / SWEEP}: holds no overrides")
    return _checked(recorded["overrides"], top / SWEEP)


def _checked(words: list[str], file: Path) -> list[str]:
    """Overrides read from a run directory, which configure the run and never Hydra, whose keys can call anything.

    Raises:
        UserError: they do, or are no overrides.
    """
    for o in commandline.parse(words):
        if o.key_or_group.partition("/")[0].partition(".")[0] == "hydra":
            raise UserError(f"{file}: holds {commandline.line(o)}; a run's folder does not configure Hydra")
    return words


def asked(overrides: list[str], flags: list[str]) -> DictConfig:
    """The whole configuration of the words that are typed, or, where they resume a run, of those that say which.

    The others make sense beside the saved words only, as ``init.g=...`` does beside the saved ``init=embedding``.
    """
    parsed = commandline.parse(overrides)
    if not any(o.key_or_group == "resume" and o.value() is True for o in parsed):
        return compose_whole(overrides, flags)
    if not any(o.key_or_group == "dir" for o in parsed):  # The default is a folder of this second.
        newest = "mfrun train and mfrun sweep take the newest with --latest"
        raise UserError(f"resume=true: name what to go on with, dir=FOLDER; {newest}")
    return compose_whole([commandline.line(o) for o in parsed if o.key_or_group in ("resume", "dir")], flags)


def resumed(saved: list[str], typed: list[str], flags: list[str]) -> tuple[list[str], DictConfig]:
    """The words of a resumed run or sweep, and the whole configuration of its first job.

    A class or function of the user's own, ``package.module:name``, that only the saved words name is not imported
    from then on: a folder that somebody else has written must not decide what code runs here. Those that are typed, or
    that stand in the user's own files, may be.
    """
    overrides = commandline.over(saved, typed)
    whole = compose_whole(commandline.first(overrides), flags)
    if any(":" in o for o in saved):
        folders = commandline.config_dirs(flags)
        groups = [o for o in saved if commandline.chooses(commandline.parse([o])[0], folders)]
        try:
            own = _names(commandline.over(groups, typed), flags)
        except UserError:  # What is typed makes sense beside the saved words only.
            own = set()
        distrust(_names(overrides, flags) - own)
    return overrides, whole


def _names(overrides: list[str], flags: list[str]) -> set[str]:
    """What the configurations of a command line may import."""
    jobs = commandline.jobs(commandline.parse(overrides))
    return set().union(*(names_in(OmegaConf.to_container(compose(job, flags))) for job in jobs))


def refuse_orphans(top: Path, names: list[str]) -> None:
    """Every run that the folder holds must be one of the resumed sweep's; widths and values may be added."""
    held = [p.parent.name for p in top.glob("*/config.yaml")]
    lost = [name for name in held if name not in names]
    if lost:
        raise UserError(f"dir={top}: holds {lost[0]}, which the sweep to resume has not; a resumed sweep may only grow")
