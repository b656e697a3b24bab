#!/usr/bin/env python
"""How far n = infinity is off with few particles, and whether its error bar holds that. Hours on one core; resumable.

    python scripts/particles.py [SETTING ...] [--root DATA] [--cifar FILE.npz] [--out outputs/particles] [--tables]

Trains the limit of each setting with many particle counts, methods and seeds on the same batches, and holds the loss at
every evaluation after step 0 to a run with far more particles: the RMS error, the RMS of the bar that the runs report
of themselves, and the share of evaluations and seeds at which the bar, with the reference's own, holds the error.
``before`` are runs without the union of the particle sets, with four sets and twice the particles, which take the same
number of multiplications.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

import mfrun
from mfrun.runs.directory import RunDirectory

METHODS = ("sobol", "antithetic", "plain")
GAUSSIANS = ("dataset=gaussians", "steps=1000", "evaluation.samples=4000")
IMAGES = ("steps=1000", "evaluation.samples=1000")
DIGITS = ("dataset=mnist", "dataset.root={root}", "dataset.download=false")
MNIST = (*IMAGES, *DIGITS)
CIFAR = (*IMAGES, "dataset=arrays", "dataset.path={cifar}", "loss=cross_entropy")
# In the last layer of ten classes there are eleven coordinates: it takes as many particles as the first.
AS_MANY = "particles.last=${{particles.first}}"
# A particle of a convolution is a filter over the whole image: a small one, and few steps.
CNN = ("architecture=cnn", "architecture.layers=[{{kernel:5,stride:3}},{{stride:2}},{{pool:2}}]")
FEW = ("steps=300", "batch=20", "alpha=0.05", "evaluation.samples=200")
# Keys, particle counts, seeds, and the particles of the reference.
SETTINGS: dict[str, tuple[tuple[str, ...], tuple[int, ...], int, int]] = {
    "gaussians5_relu": ((*GAUSSIANS, "depth=5"), (256, 512, 1024, 2048), 6, 32768),
    "gaussians2_relu": ((*GAUSSIANS, "depth=2"), (256, 512, 1024, 2048), 6, 32768),
    "gaussians3_tanh": ((*GAUSSIANS, "depth=3", "activation=tanh"), (256, 1024), 4, 16384),
    "gaussians3_relu_tau3": ((*GAUSSIANS, "depth=3", "init.tau3=0.5"), (256, 1024), 4, 16384),
    "gaussians5_tanh_tau3": ((*GAUSSIANS, "depth=5", "activation=tanh", "init.tau3=0.5"), (256, 1024), 4, 16384),
    "mnist4_relu": ((*MNIST, "depth=4", AS_MANY), (256, 1024), 4, 8192),
    "mnist3_relu": ((*MNIST, "depth=3", AS_MANY), (256, 1024), 4, 8192),
    "mnist_cnn": ((*DIGITS, *FEW, *CNN, AS_MANY), (256,), 4, 2048),
    "cifar4_relu": ((*CIFAR, "depth=4", AS_MANY), (256,), 4, 4096),
}


def main() -> None:
    """Train what is missing, and print the tables of what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", default=list(SETTINGS), help=f"of {', '.join(SETTINGS)}")
    parser.add_argument("--root", default="data", help="folder of MNIST")
    parser.add_argument("--cifar", help="CIFAR-10 as a .npz of mfrun; without it the setting is left out")
    parser.add_argument("--out", default="outputs/particles", type=Path)
    parser.add_argument("--tables", action="store_true", help="train nothing")
    args = parser.parse_args()
    found = []
    for name in args.settings:
        if "{cifar}" in " ".join(SETTINGS[name][0]) and not args.cifar and not args.tables:
            continue
        if not args.tables:
            train(name, args.out / name, {"root": args.root, "cifar": args.cifar})
        if (args.out / name / "reference").exists():
            found.append(table(name, args.out / name))
            print(f"\n{name}: against {SETTINGS[name][3]} Sobol particles")
            print(text(found[-1]))
    if found:
        every = pd.concat(found, ignore_index=True)
        every.to_csv(args.out / "particles.csv", index=False)
        held, width = (every[every["kind"] == "union"][c].mean() for c in ("held", "width"))
        print(f"\nunions: held {held:.3f}, bar / error {width:.2f}, averages over all rows")


def train(name: str, folder: Path, files: dict[str, str]) -> None:
    """The reference and all runs, as far as they are not there yet."""
    keys, counts, seeds, reference = SETTINGS[name]
    given = [key.format(**files) for key in keys]
    # The reference's quadrature is finer, too: its error is in no bar of its own.
    call(folder / "reference", *given, f"particles.first={reference}", "particles.nodes=32", "seed.init=1000")
    for count in counts:
        for method in METHODS:
            for seed in range(seeds):
                here = [*given, f"particles.method={method}", f"seed.init={seed}"]
                call(folder / f"union-{method}-{count}-{seed}", *here, f"particles.first={count}")
                before = ["particles.union=false", "particles.sets=4", f"particles.first={2 * count}"]
                call(folder / f"before-{method}-{count}-{seed}", *here, *before)


def call(run: Path, *words: str) -> None:
    if RunDirectory(run).done():
        return
    again = f"resume={(run / 'config.yaml').exists()}"
    words = ("width=inf", "threads=1", *words, f"dir={run}", again)
    subprocess.run([sys.executable, "-m", "mfrun", "train", *words], check=True, stdout=subprocess.DEVNULL)


def table(name: str, folder: Path) -> pd.DataFrame:
    """A row for each kind of run, method and count."""
    truth, rows = curve(folder / "reference"), []
    for run in sorted(folder.glob("*-*-*-*")):
        if not RunDirectory(run).done():
            continue
        kind, method, count, _ = run.name.split("-")
        frame = curve(run)
        gap = (frame["loss"] - truth["loss"]).abs()
        row = {"setting": name, "kind": kind, "method": method, "particles": int(count)}
        row |= {"error": (gap**2).mean(), "bar": (frame["bar"] ** 2).mean()}
        rows.append(row | {"held": (gap <= np.hypot(frame["bar"], truth["bar"])).mean(), "seeds": 1})
    runs = pd.DataFrame(rows).groupby(["setting", "kind", "method", "particles"])
    found = runs.mean()
    found[["error", "bar"]] **= 0.5
    found["width"], found["seeds"] = found["bar"] / found["error"], runs["seeds"].sum()
    return found.reset_index()


def curve(run: Path) -> pd.DataFrame:
    """Loss of the last split and its bar by step, over the steps after the first."""
    frame = mfrun.load(run).frame.set_index("step")
    loss = [c for c in map(str, frame) if c.endswith("_loss")][-1]
    return frame.loc[1:, [loss, f"{loss}_bar"]].set_axis(["loss", "bar"], axis=1)


def text(found: pd.DataFrame) -> str:
    """Unions beside what was before them."""
    lines = [
        f"{'':22} {'union, 8 sets':^38}   {'before: 4 sets, twice the particles':^38}",
        f"{'method':>12} {'particles':>9} " + 2 * f"{'error':>11} {'bar':>9} {'bar/error':>9} {'held':>6}    ",
    ]
    for (method, count), part in found.groupby(["method", "particles"]):
        line = f"{method:>12} {count:>9} "
        for kind in ("union", "before"):
            of_kind = part[part["kind"] == kind]
            if len(of_kind):
                r = of_kind.iloc[0]
                line += f"{r['error']:>11.1e} {r['bar']:>9.1e} {r['width']:>9.1f} {r['held']:>6.2f}    "
        lines.append(line.rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    main()
