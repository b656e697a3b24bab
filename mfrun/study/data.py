"""``mfrun data``: fetch a data set where it is missing, compute features, verify it, and say what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mfrun import config
from mfrun.errors import UserError
from mfrun.shell import usage
from mfrun.shell.commandline import line, parse, split
from mfrun.shell.compose import compose

if TYPE_CHECKING:
    from torch import Tensor

    from mfrun.problems.problem import Problem

USAGE = """\
usage: mfrun data DATASET [KEY=VALUE ...]

Fetch a data set where it is missing, or compute its features; verify it, and say what it holds. The keys are those of
mfrun train. A computation of features that was stopped, in whatever way, goes on where it was.

  mfrun data mnist dataset.root=FOLDER
  mfrun data arrays dataset.path=FILE.npz
  mfrun data cifar10_vgg16 threads=8
  mfrun data cifar10_vgg16 dataset.weights=vgg16-397923af.pth device=cuda

Data sets:"""
# Classes whose counts are shown one by one.
SHOWN = 10


def main(argv: list[str]) -> int:
    """Entry point of the command."""
    if "--help" in argv or "-h" in argv:
        print("\n".join([USAGE, *usage.options("dataset")]))
        return 0
    flags, words = split(argv)
    overrides = [f"dataset={w}" if "=" not in w and w[0] not in "~+" else w for w in words]
    parsed = parse(overrides)
    swept = [line(o) for o in parsed if o.is_sweep_override()]
    if swept or [o.key_or_group for o in parsed].count("dataset") != 1:
        raise UserError(f"data {' '.join(argv)}".rstrip() + ": give one data set; mfrun data --help lists them")
    cfg = config.validated(compose(overrides, flags))
    _prepare(cfg)
    from mfrun.dynamics.experiment import load_problem
    from mfrun.registry import create

    problem = load_problem(replace(cfg, device="cpu"))
    print(table(problem))
    verify = getattr(create("dataset", cfg.dataset, "dataset"), "verify", None)
    if verify:
        print(verify(problem))
    return 0


def _prepare(cfg: config.Config) -> None:
    """Do what a data set wants done once, before it is loaded."""
    import torch

    from mfrun.dynamics.experiment import resolve_device
    from mfrun.registry import create

    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    prepare = getattr(create("dataset", cfg.dataset, "dataset"), "prepare", None)
    if prepare:
        prepare(resolve_device(cfg.device))


def table(problem: Problem) -> str:
    """What a data set holds: the inputs, and for each split the number of samples and how the labels are spread."""
    import pandas as pd

    from mfrun.problems.problem import FiniteProblem
    from mfrun.problems.tasks import Task

    shape = f" ({' x '.join(map(str, problem.image))})" if problem.image else ""
    outputs = f"{problem.n_out} {'classes' if problem.task is Task.CLASSES else 'outputs'}"
    outputs = outputs if problem.n_out > 1 else "1 output"
    title = f"d = {problem.d}{shape}, {problem.task.value} labels, {outputs}"
    if not isinstance(problem, FiniteProblem):
        return f"{title}; samples are drawn as they are needed"
    rows = [
        {"split": split, "samples": len(y), **_spread(y, problem.task, problem.classes or range(problem.n_out))}
        for split, (_, y) in problem.data.items()
    ]
    return f"{title}\n{pd.DataFrame(rows).to_string(index=False)}"


def _spread(y: Tensor, task: object, names: Sequence[Any]) -> dict[str, object]:
    """Samples of each label, or where the targets lie."""
    from mfrun.problems.tasks import Task

    if task is Task.REGRESSION:
        return {"mean": f"{y.mean():.4g}", "std": f"{y.std():.4g}", "min": f"{y.min():.4g}", "max": f"{y.max():.4g}"}
    if task is Task.SIGN:
        return {"y=-1": int((y < 0).sum()), "y=+1": int((y > 0).sum())}
    counts = y.bincount(minlength=len(names))
    if len(names) > SHOWN:
        return {"smallest class": int(counts.min()), "largest class": int(counts.max())}
    return {f"y={names[label]}": int(count) for label, count in enumerate(counts)}
