"""``mfrun train --help``: the groups and keys of ``conf/``, each with the comment that stands beside it there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mfrun.config import conf_dir

USAGE = {
    "train": """\
usage: mfrun train [KEY=VALUE ...] [GROUP=OPTION ...] [FLAGS]

Train one network and write its metrics, state and status into `dir`.

  mfrun train dataset=mnist depth=4 width=400 steps=10000
  mfrun train dataset=gaussians activation=tanh schedule=power schedule.p=0.1 init.tau2=3
  mfrun train width=inf                               the mean field limit itself, with its error bar
  mfrun train dir=outputs/gaussians/... resume=true   go on with an unfinished run""",
    "sweep": """\
usage: mfrun sweep [KEY=VALUE ...] [KEY=A,B,...] [GROUP=A,B] [FLAGS]

Train one network for each width in `widths`, and for each value of every key that is given several (a Hydra multirun).

  mfrun sweep dataset=mnist 'widths=[100,200,400,inf]' steps=10000
  mfrun sweep dataset=gaussians depth=5 init.tau2=0.1,3 activation=relu,tanh
  mfrun sweep replicates=8                            eight initialisations of every width, side by side
  mfrun sweep dir=outputs/gaussians/... resume=true   go on with an unfinished sweep; widths may be added
  mfrun sweep +figure=fig8b --dry-run                 time, memory and disk of every run and of all; trains nothing""",
    "check": """\
usage: mfrun check [KEY=VALUE ...] [GROUP=OPTION ...] [FLAGS]

Coordinate check: let each width in `widths` take a few steps, and see how the sizes of every layer's pre-activations,
outputs and weights, and their changes in a step, depend on n. Writes check.csv, check_steps.csv, check_types.csv and
check.png into `dir`; the exit code is 0 where all are O(1), else 1. Unless given: widths=[32,64,128,256,512] steps=8
replicates=16 dtype=float64. Steps follow random error signals; with --train, those of the loss.

  mfrun check dataset=mnist depth=4 'widths=[50,100,200,400]'
  mfrun check scaling=ntk
  mfrun check scaling=powers 'scaling.inner=[1,0,-1]'""",
    "predict": """\
usage: mfrun predict [KEY=VALUE ...] [GROUP=OPTION ...] [OPTIONS] [FLAGS]
       mfrun predict FOLDER [widths=[N,...]] [OPTIONS]

The law of networks of every finite width from the limit alone: perturbed limits train side by side, and from these
follow the mean gap c/n, the standard deviation over starts s/sqrt(n), the width that an accuracy takes, and when
networks leave the limit. Writes predict.csv and the figure into `dir`; with FOLDER, again from what is there.

  mfrun predict dataset=gaussians depth=5 steps=2000 'widths=[100,400,1e6]'
  mfrun predict dataset=mnist depth=3 --accuracy 0.005 --metrics test_loss
  mfrun predict dir=outputs/gaussians/... resume=true   go on with an unfinished prediction

Options:
  --accuracy A           of the width that is asked for: 1% of the metric's value in the limit, or a number (1%)
  --networks K           whose outputs are averaged in an ensemble (8)
  --tolerance F          of the horizon, as `mfrun compare` takes it (0.05)
  --metrics M,...        columns of metrics.csv; losses and errors by default
  --format png|pdf|svg   of the figure (png)""",
}

FLAGS = """\
Flags (Hydra's own; --hydra-help lists the rest):
  --cfg job              print the composed configuration, of a sweep its first run's, and stop
  --info [WHAT]          print where it comes from: config, defaults, defaults-tree, searchpath, plugins
  --config-dir DIR       look for further YAML files (your own groups and presets) in DIR
  --debug                full traceback of an error"""


def text(command: str, own: Sequence[str] = ()) -> str:
    """The help of ``train``, ``sweep``, ``check`` or ``predict``.

    Args:
        command: its name.
        own: folders of ``--config-dir``, whose options are listed beside the program's.
    """
    root = conf_dir()
    groups, keys = [], []
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and p.name != "hydra"):
        groups += [f"\n  {folder.name}=", *options(folder.name, own)]
    for key, description in _keys(root / "config.yaml", None):
        keys.append(f"  {key:<32}{description}")
    return "\n".join(
        [USAGE[command], "\nKeys, with their defaults:", *keys, "\nGroups, their options and keys:", *groups, "", FLAGS]
    )


def options(group: str, own: Sequence[str] = ()) -> list[str]:
    """A line for each option of a group, and one for each of its keys."""
    lines = []
    folders = [conf_dir(), *map(Path, own)]
    for file in [file for folder in folders for file in sorted((folder / group).glob("*.yaml"))]:
        lines.append(f"    {file.stem:<14}{_title(file)}")
        # A preset has no keys of its own.
        shown = [] if group == "figure" else _keys(file, group)
        lines += [f"      {key:<27}{description}" for key, description in shown]
    return lines


def prefix_of(text: str, group: str) -> str:
    """What stands before the keys of a file of a group, ``activation.``; nothing for one outside all groups.

    What a global file sets lies outside its group, and a file may say that it is not alone there.
    """
    package = re.search(r"^# @package (\S+)", text)
    place = package[1] if package else group
    return f"{place}." if place not in ("", "_global_") else ""


def _title(file: Path) -> str:
    comments = [line[2:] for line in file.read_text().splitlines() if line.startswith("# ") and "@package" not in line]
    return comments[0] if comments else ""


def _keys(file: Path, group: str | None) -> list[tuple[str, str]]:
    """(full key, "default  what it means") for each commented line of a file, in order."""
    found, parents, text = [], [], file.read_text()
    prefix = prefix_of(text, group or "")
    for line in text.splitlines():
        match = re.match(r"( *)([a-z_0-9]+):(?: +([^ #].*?))?(?: +# (.*))?$", line)
        if not match:
            continue
        indent, key, value, comment = len(match[1]) // 2, match[2], match[3] or "", match[4]
        if indent == 0 and key in ("defaults", "hydra"):
            parents = [key]
            continue
        if indent > 0 and parents[:1] in (["defaults"], ["hydra"]):
            continue
        parents = [*parents[:indent], key]
        if comment is None or key == "name":
            continue
        found.append((prefix + ".".join(parents), f"{value:<12} {comment}".lstrip() if value else comment))
    return found
