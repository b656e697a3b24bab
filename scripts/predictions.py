"""Predictions (`mfrun predict`) held to real networks, for docs/predict.md. An hour on one core; resumable.

For each setting: the share of real starts inside the band that is predicted to hold 95 % of them, over all evaluations
after step 0, and at chosen steps n times the measured mean gap beside c, and the deviation over starts beside the
predicted one, with their standard errors and the distance in those of the difference (z).
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from pathlib import Path

import numpy as np

import mfrun
from mfrun.runs.directory import RunDirectory
from mfrun.study.prediction import Law, read

MNIST = ("dataset=mnist", "evaluation.samples=2000")
# Keys, metric, the steps that are printed, real starts by width.
SETTINGS: dict[str, tuple[tuple[str, ...], str, tuple[int, ...], dict[int, int]]] = {
    "gaussians2_relu": (
        ("dataset=gaussians", "depth=2", "steps=2000"),
        "population_loss",
        (0, 100, 1000, 2000),
        {100: 64, 400: 64},
    ),
    "gaussians3_tanh_tau3": (
        ("dataset=gaussians", "depth=3", "steps=2000", "activation=tanh", "init.tau3=0.5"),
        "population_loss",
        (0, 100, 1000, 2000),
        {100: 64, 400: 64},
    ),
    "gaussians5_relu": (
        ("dataset=gaussians", "depth=5", "steps=2000"),
        "population_loss",
        (0, 100, 316, 1000, 2000),
        {100: 64, 400: 64},
    ),
    "mnist3": ((*MNIST, "depth=3", "steps=1000"), "test_loss", (0, 100, 316, 1000), {100: 64, 400: 64}),
    "mnist4_tau2": (
        (*MNIST, "depth=4", "alpha=0.01", "init.tau2=2", "steps=2000"),
        "test_loss",
        (0, 100, 316, 1000, 1995),
        {100: 64, 400: 64},
    ),
}


def main() -> None:
    """Train what is missing, and print the tables of what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", nargs="*", default=list(SETTINGS), help=f"of {', '.join(SETTINGS)}")
    parser.add_argument("--root", default="data", help="folder of MNIST")
    parser.add_argument("--out", default="outputs/predictions", type=Path)
    parser.add_argument("--tables", action="store_true", help="train nothing")
    args = parser.parse_args()
    for name in args.settings:
        keys, metric, steps, starts = SETTINGS[name]
        folder = args.out / name
        if not args.tables:
            train(folder, keys, starts, args.root)
        law = read(folder / "predicted", [metric]).laws[0]
        print(f"\n{name}: {metric}")
        for n in starts:
            show(law, mfrun.load(folder / f"width={n}").frame, n, steps)


def train(folder: Path, keys: tuple[str, ...], starts: dict[int, int], root: str) -> None:
    """The prediction and the real networks, as far as they are not there yet."""
    keys = (*keys, "threads=1", *([f"dataset.root={root}"] if "dataset=mnist" in keys else []))
    top = folder / "predicted"
    call("predict", *keys, f"dir={top}", f"resume={(top / 'sweep.yaml').exists()}")
    for n, count in starts.items():
        run = folder / f"width={n}"
        if not RunDirectory(run).done():
            again = (run / "config.yaml").exists()
            call("train", *keys, f"width={n}", f"replicates={count}", f"dir={run}", f"resume={again}")


def call(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "mfrun", *words], check=True)


def show(law: Law, frame, n: int, steps: tuple[int, ...]) -> None:
    """A width's rows."""
    values = frame.pivot(index="step", columns="replicate", values=law.metric)
    values = values.loc[values.index.intersection(law.frame.index)]
    S = values.shape[1]
    mean, half = (series.reindex(values.index) for series in law.band(n))
    inside = values.sub(mean, axis=0).abs().le(half, axis=0)
    linear = law.frame["linear"].reindex(values.index) & (values.index > 0)
    share = 100 * inside[linear].to_numpy().mean()
    print(f"  n = {n}, {S} starts: {share:.0f} % inside, over {int(linear.sum())} evaluations")
    print(
        f"    {'step':>6} {'n gap':>18} {'c':>18} {'z':>5} {'deviation':>18} {'predicted':>18} {'z':>5} {'inside':>7}"
    )
    errors = law.deviation_error(n)
    for k in steps:
        row, found = law.frame.loc[k], values.loc[k]
        sd, predicted = found.std(), law.deviation(n)[k]
        # The limit's own error counts n times, as a standard error.
        gap, gap_se = n * (found.mean() - row["limit"]), n * math.hypot(sd / math.sqrt(S), row["limit_bar"] / 2)
        sd_se = sd / math.sqrt(2 * (S - 1))
        z = [
            (a - b) / max(math.hypot(x, y), 1e-30)
            for a, x, b, y in ((gap, gap_se, row["c"], row["c_se"]), (sd, sd_se, predicted, errors[k]))
        ]
        print(
            f"    {k:>6} {gap:>9.3g} +-{gap_se:<7.2g} {row['c']:>9.3g} +-{row['c_se']:<7.2g} {z[0]:>+5.1f}"
            f" {sd:>9.2g} +-{sd_se:<7.1g} {predicted:>9.2g} +-{errors[k]:<7.1g} {z[1]:>+5.1f}"
            f" {100 * np.mean(inside.loc[k]):>5.0f} %{'' if row['linear'] else ' !'}"
        )


if __name__ == "__main__":
    main()
