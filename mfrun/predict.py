"""``mfrun predict``: train a limit and its perturbed copies, and say what they tell of finite networks."""

from __future__ import annotations

import argparse
import importlib
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from mfrun.config import parse_width, width_label
from mfrun.errors import ConfigError, UserError
from mfrun.shell import commandline, hydra, options
from mfrun.shell.compose import compose, keys
from mfrun.study import prediction
from mfrun.sweeps import launch, resume

# What the prediction is printed for where the command line does not say it.
WIDTHS = [100.0, 400.0, 1600.0, 1e4, 1e6]
# Keys that the command sets itself.
OWN = ("width", "perturbed")


def main(argv: list[str]) -> int:
    """Entry point of the command."""
    if hydra.only_prints("predict", argv):
        return 0
    chosen, words = options.predict().parse_known_args(argv)
    accuracy = _accuracy(chosen.accuracy)
    if chosen.networks < 1:
        raise UserError(f"--networks {chosen.networks}: must be at least 1")
    if not chosen.tolerance > 0:
        raise UserError(f"--tolerance {chosen.tolerance}: must be a number > 0")
    flags, words = commandline.split(words)
    folders = [Path(word) for word in words if Path(word).is_dir()]
    given = [word for word in words if not Path(word).is_dir()]
    for word in given:
        if "=" not in word and not word.startswith("~"):
            raise UserError(f"{word}: no such folder, and not of the form KEY=VALUE")
    widths = _widths(given)
    if folders:
        top = folders[0]
        extra = [str(f) for f in folders[1:]] + [w for w in given if not w.startswith("widths=")] + flags
        if extra:
            raise UserError(f"{extra[0]}: {top} is read as it is; only widths=[...] and options may follow")
    else:
        top = train(flags, given)
    return show(top, widths, accuracy, chosen)


def train(flags: list[str], given: list[str]) -> Path:
    """Train the limit and its perturbed groups, one run each; their folder.

    Raises:
        UserError: the words make no sense.
        Interrupted: the training was stopped, and its state is saved.
    """
    for o in commandline.parse(given):
        if o.is_sweep_override():
            raise UserError(f"{o.input_line}: several values; one prediction is of one setting")
        if o.key_or_group in OWN:
            raise ConfigError(o.key_or_group, o.value(), "is the prediction's own; widths=[...] says what to print")
    given = [w for w in given if not w.startswith("widths=")]
    node = keys(resume.asked(given, flags))
    if node.resume:
        node = compose(commandline.first(commandline.over(resume.words_of_sweep(Path(node.dir)), given)), flags)
    groups = OmegaConf.select(node, "predict.groups")
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 2:
        raise ConfigError("predict.groups", groups, "must be at least 2, for a standard error")
    perturbed = ",".join(map(str, range(groups + 1)))
    # All runs draw Sobol points, in processes that are copies of this one: it takes a second to import, once.
    importlib.import_module("scipy.stats.qmc")
    top, _ = launch.sweep_runs("predict", flags, [*given, "width=inf", f"perturbed={perturbed}"])
    return top


def show(top: Path, widths: list[float], accuracy: tuple[float, bool], chosen: argparse.Namespace) -> int:
    """Write the table and the figure, and print what matters of them; 3 where a limit has diverged, else 0."""
    from mfrun.study import style
    from mfrun.study.predicted import figure, text

    wanted = chosen.metrics.split(",") if chosen.metrics else None
    found = prediction.read(top, wanted)
    laws = found.laws if wanted else [law for law in found.laws if law.metric.endswith(("_loss", "_error"))]
    tables = [law.frame.reset_index().assign(metric=law.metric) for law in found.laws]
    pd.concat(tables, ignore_index=True).to_csv(top / "predict.csv", index=False)
    print(text(found, laws, widths, accuracy, chosen.networks, chosen.tolerance))
    style.save(figure(found, laws, widths), top / f"predict.{chosen.format}")
    print(f"\n{top / 'predict.csv'}\n{top / f'predict.{chosen.format}'}")
    return 0 if found.lost is None else 3


def _accuracy(text: str) -> tuple[float, bool]:
    """The number, and whether it is a part of the metric's value."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"--accuracy {text}: a number > 0, or a percentage as in 1%")
    return value, text.endswith("%")


def _widths(given: Sequence[str]) -> list[float]:
    """Those of ``widths=[...]``."""
    said = [o for o in commandline.parse(list(given)) if o.key_or_group == "widths"]
    if not said:
        return WIDTHS
    value = said[-1].value()
    widths = sorted(parse_width(w, "widths") for w in (value if isinstance(value, list) else [value]))
    if not widths or math.isinf(widths[-1]):
        labels = f"[{','.join(map(width_label, widths))}]"
        raise ConfigError("widths", labels, "finite widths, for which the prediction is printed")
    return widths
