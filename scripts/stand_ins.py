"""Widths stood for by fewer neurons against real networks, for docs/width.md. Hours on one core; resumable.

For each setting, real networks and stand-ins of N neurons train to the same steps on the same samples. Printed are, at
chosen steps, the gap of the mean to the limit and the deviation over starts of both, and the distance of their gaps in
standard errors of the difference; where the curve has a plateau, the step at which it falls below a level.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import mfrun
from mfrun.runs.directory import RunDirectory


@dataclass(frozen=True)
class Setting:
    """What is trained, and where it is looked at.

    Attributes:
        keys: of the runs.
        metric: that is compared.
        steps: at which.
        starts: of every width; of a real n = 1600, ``few``.
        beyond: starts of the widths that nobody can train, ``starts`` if None.
        first: neurons of the stand-ins' first layer by N, where it has more.
        level: of the metric; its first passage is compared, too.
    """

    keys: tuple[str, ...]
    metric: str
    steps: tuple[int, ...]
    starts: int = 12
    few: int = 4
    beyond: int | None = None
    first: int | None = None
    level: float | None = None


MNIST = ("dataset=mnist", "alpha=0.01", "evaluation.points_per_decade=20")
# Wide networks spend more time in evaluations than in training; a gap needs fewer samples than a value.
FEW = ("evaluation.samples=2000",)
SETTINGS = {
    "gaussians": Setting(
        ("dataset=gaussians", "depth=5", "steps=2000"), "population_loss", (100, 316, 1000, 2000), 24, 8
    ),
    "gaussians_1024": Setting(
        ("dataset=gaussians", "depth=5", "steps=2000"), "population_loss", (100, 316, 1000, 2000), 24, 8, first=1024
    ),
    "mnist3_tau01": Setting((*MNIST, *FEW, "depth=3", "steps=2000"), "test_loss", (100, 316, 1000, 2000)),
    "mnist3_tau2": Setting((*MNIST, *FEW, "depth=3", "init.tau2=2", "steps=2000"), "test_loss", (100, 316, 1000, 2000)),
    "mnist4_tau2": Setting(
        (*MNIST, "depth=4", "init.tau2=2", "steps=4000"), "test_loss", (100, 1000, 1995, 4000), beyond=4, level=1.0
    ),
    "mnist4_tau01": Setting(
        (*MNIST, *FEW, "depth=4", "steps=20000"), "test_loss", (1000, 5012, 10000, 20000), beyond=4, level=1.0
    ),
}
REAL, SIZES = (400, 800, 1600), (64, 128, 256)
# More starts of one setting, ``more``: width, neurons of layer 1 where N = 128 stand for it, starts of a seed, seeds.
MORE, OF, N_MORE = "more", "mnist4_tau01", 128
SEEDS = [(400, None, 12, (1,)), (800, None, 6, (1, 2, 3)), (800, 1024, 6, (0, 1, 2, 3))]
# Ten classes in two dimensions, ``outputs``: n = 256 by N, with so many neurons in layer 1 and in the last hidden one.
OUTPUTS, STARTS = "outputs", 200
LAYERS = [(None, None, None), (64, 1024, None), (128, 1024, None), (64, 1024, 256), (64, 1024, 1024)]


def main() -> None:
    """Train what is missing, and print the tables of what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    every = [*SETTINGS, MORE, OUTPUTS]
    parser.add_argument("settings", nargs="*", default=every, help=f"of {', '.join(every)}")
    parser.add_argument("--root", default="data", help="folder of MNIST")
    parser.add_argument("--out", default="outputs/stand_ins", type=Path)
    parser.add_argument("--tables", action="store_true", help="train nothing")
    parser.add_argument("--largest", type=int, default=max(REAL), help="real widths to train, up to this one")
    args = parser.parse_args()
    for name in args.settings:
        if name == MORE:
            more(args)
            continue
        if name == OUTPUTS:
            outputs(args)
            continue
        setting = SETTINGS[name]
        # The first layer's size is the stand-ins' alone: real networks and the limit of one task are trained once.
        real = args.out / name.removesuffix("_1024")
        if not args.tables:
            train(setting, real, args)
            for N in SIZES:
                train(setting, args.out / f"{name}_N{N}", args, N)
        show(name, setting, real, args.out)


def more(args: argparse.Namespace) -> None:
    """More starts from other seeds, with what there is of real networks; the passage and the gap before it."""
    setting, folder = SETTINGS[OF], args.out / f"{OF}_{MORE}"
    keys = [*setting.keys, "threads=1", f"dataset.root={args.root}"]
    limit = next(r.frame for r in ended(args.out / OF) if math.isinf(r.width)).set_index("step")[setting.metric]
    step = setting.steps[-2]
    print(f"\n{OF}, more starts: {setting.metric} below {setting.level}; gap of the mean to the limit at step {step}")
    for n, first, starts, seeds in SEEDS:
        frames = [] if first else [mfrun.Run(args.out / OF / f"width={n}").frame]
        for seed in seeds:
            run = folder / f"width={n}{f',first={first}' if first else ''},seed={seed}"
            words = [f"width={n}", f"replicates={starts}", f"seed.init={seed}"]
            words += [f"neurons={N_MORE}", f"stand_in.first={first}"] if first else []
            if not args.tables:
                once(run, [*keys, *words])
            frames.append(mfrun.Run(run).frame)
        passed = np.concatenate([passages(f, setting.metric, setting.level or 0.0) for f in frames])
        gaps = np.concatenate([f[f["step"] == step][setting.metric] for f in frames]) - limit[step]
        what = f"N = {N_MORE}, first = {first}" if first else "real"
        told = (f"{v.mean():.4g} +- {v.std(ddof=1) / len(v) ** 0.5:.2g}" for v in (passed, gaps))
        print(
            f"{n:>8} {what:<24} {len(passed):>4}  {'  '.join(told)}  deviation of the passage {passed.std(ddof=1):.0f}"
        )


def outputs(args: argparse.Namespace) -> None:
    """The deviation over starts where it is the output weights' law, in ten dimensions, that needs points."""
    folder, rng = args.out / OUTPUTS, np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    x = rng.standard_normal((20, 2)) + 0.3
    y = np.concatenate([np.arange(10), rng.integers(0, 10, 10)])
    np.savez(folder / "classes.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    keys = ["dataset=arrays", f"dataset.path={folder / 'classes.npz'}", "loss=cross_entropy", "batch=20", "threads=1"]
    keys += ["sampling=epochs", "depth=3", "activation=tanh", "alpha=0.3", "init.mu2=0.8", "init.tau2=1", "steps=10"]
    steps, real = [1, 3, 10], None
    print(f"\n{OUTPUTS}: deviation of train_loss over {STARTS} starts, and its ratio to the real networks'")
    for N, first, last in LAYERS:
        name = "real" if N is None else f"N = {N}, first = {first}" + (f", last = {last}" if last else "")
        run = folder / name.replace(" ", "")
        words = [f"neurons={N}", f"stand_in.first={first}", f"stand_in.last={last or 'null'}"] if N else []
        if not args.tables:
            once(run, [*keys, "width=256", f"replicates={STARTS}", f"seed.init={int(N is not None)}", *words])
        values = mfrun.Run(run).frame.pivot(index="step", columns="replicate", values="train_loss").loc[steps]
        sd = values.std(axis=1)
        real = sd if real is None else real
        print(f"{name:<34}" + "".join(f"  k={k}: {sd[k]:.5f} ({sd[k] / real[k]:.2f})" for k in steps))


def train(setting: Setting, folder: Path, args: argparse.Namespace, N: int | None = None) -> None:
    """The runs of one folder that are not there yet."""
    widths = [n for n in REAL if n <= args.largest]
    keys = [*setting.keys, "threads=1", *([f"dataset.root={args.root}"] if "mnist" in setting.keys[0] else [])]
    if N is not None:
        keys += [f"neurons={N}", *([f"stand_in.first={setting.first}"] if setting.first else [])]
    for n in [*widths, *(["inf"] if N is None else [1000000, 1000000000000])]:
        run = folder / f"width={n}"
        starts = setting.starts
        if N is None and n == max(REAL):
            starts = setting.few
        elif n not in (*REAL, "inf") and setting.beyond:
            starts = setting.beyond
        once(run, [*keys, f"width={n}", f"replicates={starts}"])


def once(run: Path, words: list[str]) -> None:
    """Train a run to its end, if it is not there yet."""
    if not RunDirectory(run).done():
        words = [*words, f"dir={run}", f"resume={(run / 'config.yaml').exists()}"]
        subprocess.run([sys.executable, "-m", "mfrun", "train", *words], check=True)


def show(name: str, setting: Setting, real: Path, out: Path) -> None:
    """The tables of one setting."""
    metric, steps = setting.metric, list(setting.steps)
    curves = {("real", int(r.width)): r.frame for r in ended(real) if math.isfinite(r.width)}
    limit = next(r.frame for r in ended(real) if math.isinf(r.width)).set_index("step")
    for N in SIZES:
        if (out / f"{name}_N{N}").exists():
            curves |= {(f"N = {N}", int(r.width)): r.frame for r in ended(out / f"{name}_N{N}")}
    print(f"\n{name}: {metric}; gap of the mean to the limit and its standard error; deviation over starts")
    print(f"{'n':>8} {'':<8} {'starts':>6}" + "".join(f" {f'k={k}':>28}" for k in steps))
    for n in sorted({n for _, n in curves}):
        truth = None
        for what in ("real", *(f"N = {N}" for N in SIZES)):
            if (what, n) not in curves:
                continue
            values = curves[what, n].pivot(index="step", columns="replicate", values=metric).reindex(steps)
            gap, sd = values.mean(axis=1) - limit[metric].reindex(steps), values.std(axis=1)
            se = sd / math.sqrt(values.shape[1])
            line = f"{n:>8.3g} {what:<8} {values.shape[1]:>6}"
            for k in steps:
                z = "" if truth is None else f" {(gap[k] - truth[0][k]) / math.hypot(se[k], truth[1][k]):+.1f}"
                line += f" {gap[k]:>8.4f} +-{se[k]:.4f} {sd[k]:.4f}{z:>5}"
            print(line)
            truth = (gap, se) if what == "real" else truth
    if setting.level is not None:
        print(f"step at which {metric} falls below {setting.level}: mean, its standard error, deviation over starts")
        for (what, n), frame in sorted(curves.items(), key=lambda item: (item[0][1], item[0][0] != "real", item[0][0])):
            passed = passages(frame, metric, setting.level)
            if len(passed) > 1:
                sd = passed.std(ddof=1)
                se = sd / len(passed) ** 0.5
                print(f"{n:>8.3g} {what:<8} {len(passed):>6} {passed.mean():>9.0f} +-{se:.0f} {sd:.0f}")


def ended(folder: Path) -> list[mfrun.Run]:
    """The runs below a folder that have come to their end."""
    return [run for run in mfrun.load(folder) if run.status["state"] == "finished"]


def passages(frame: pd.DataFrame, metric: str, level: float) -> np.ndarray:
    """The step, interpolated, at which each start first falls below the level; those that never do are left out."""
    found = []
    for _, one in frame.groupby("replicate"):
        k, v = one["step"].to_numpy(float), one[metric].to_numpy()
        below = np.flatnonzero(v < level)
        if len(below) and below[0] > 0:
            i = below[0]
            found.append(k[i - 1] + (v[i - 1] - level) / (v[i - 1] - v[i]) * (k[i] - k[i - 1]))
    return np.array(found)


if __name__ == "__main__":
    main()
