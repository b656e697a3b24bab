#!/usr/bin/env python
"""How the error of the n = infinity curve falls with the number of particles, for each way to draw them.

    python scripts/particles.py [--study gaussians|mnist] [--root DATA] [--out outputs/particles] [--threads T]

Trains the limit with many particle counts, methods and seeds on the same batches, measures the RMS distance of the loss
over the logarithmic grid to a run with far more particles, and prints it beside the error bar that each run reports of
itself, with the share of grid points at which the bar holds the truth. Writes the table as CSV.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from mfrun.runs.directory import RunDirectory, find_runs
from mfrun.sweeps.launch import sweep


def main() -> None:
    """Run the studies and print one table each."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--study", choices=("gaussians", "mnist"), help="one of the two; both by default")
    p.add_argument("--root", default="data", help="folder of MNIST")
    p.add_argument("--out", default="outputs/particles", help="folder for the runs and tables; replaced")
    p.add_argument("--threads", default="null", help="CPU threads")
    args = p.parse_args()
    common = [f"threads={args.threads}", "width=inf"]
    if args.study != "mnist":
        keys = [*common, "dataset=gaussians", "depth=5", "steps=1000", "evaluation.samples=4000"]
        # One coordinate in the last layer: its quadrature is exact for this purpose.
        study("gaussians", keys, [256, 512, 1024, 2048, 4096], 16384, 4, Path(args.out))
    if args.study != "gaussians":
        keys = [*common, "dataset=mnist", f"dataset.root={args.root}", "dataset.download=false", "depth=4"]
        # Ten coordinates in the last layer: it takes as many particles as the first.
        keys += ["steps=1000", "evaluation.samples=1000", "particles.last=${particles.first}"]
        study("mnist", keys, [256, 512, 1024, 2048], 8192, 2, Path(args.out))


def study(name: str, keys: list[str], sizes: list[int], reference: int, seeds: int, out: Path) -> None:
    """Measure one task."""
    for folder in (out / name, out / f"{name}-reference"):
        shutil.rmtree(folder, ignore_errors=True)
    truth_dir = out / f"{name}-reference"
    sweep([*keys, f"dir={truth_dir}", f"particles.first={reference}", "seed.init=1000"])
    truth = curve(next(iter(find_runs(truth_dir))))
    counts, chosen = ",".join(map(str, sizes)), ",".join(map(str, range(seeds)))
    swept = ["particles.method=sobol,antithetic,plain", f"particles.first={counts}", f"seed.init={chosen}"]
    sweep([*keys, f"dir={out / name}", *swept])
    rows = []
    for run in find_runs(out / name):
        cfg, frame = run.config(), curve(run)
        gap, bar = (frame["loss"] - truth["loss"]).abs(), frame["bar"]
        held = (gap <= bar + truth["bar"]).mean()
        row = {"method": cfg.particles.method, "particles": cfg.particles.first}
        rows.append(row | {"error": (gap**2).mean(), "bar": (bar**2).mean(), "held": held})
    table = pd.DataFrame(rows).groupby(["method", "particles"]).mean()
    table[["error", "bar"]] **= 0.5
    own = np.sqrt((truth["bar"] ** 2).mean())
    print(f"\n{name}: RMS error of the loss against {reference} Sobol particles (bar {own:.1e}), {seeds} seeds")
    print(table.to_string(formatters={"error": "{:.1e}".format, "bar": "{:.1e}".format, "held": "{:.2f}".format}))
    for method, part in table.groupby(level=0):
        slope = np.polyfit(np.log(part.index.get_level_values(1)), np.log(part["error"]), 1)[0]
        print(f"{method}: error ~ N^{slope:.2f}")
    table.to_csv(out / f"{name}.csv")


def curve(run: RunDirectory) -> pd.DataFrame:
    """Loss and bar by step, over the steps after the first."""
    frame = run.metrics().set_index("step")
    loss = next(c for c in frame if c.endswith("_loss"))
    return frame.loc[1:, [loss, f"{loss}_bar"]].set_axis(["loss", "bar"], axis=1)


if __name__ == "__main__":
    main()
