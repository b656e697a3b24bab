#!/usr/bin/env python
"""How the error of the n = infinity curve falls with the number of particles, for each way to draw them.

    python scripts/particles.py [--quick] [--root DATA] [--out outputs/particles]

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

from mfrun.launch import sweep
from mfrun.run import RunDirectory, find_runs


def main() -> None:
    """Run the studies and print one table each."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="Gaussians only, few sizes")
    p.add_argument("--root", default="data", help="folder of MNIST")
    p.add_argument("--out", default="outputs/particles", help="folder for the runs and tables; replaced")
    args = p.parse_args()
    out = Path(args.out)
    shutil.rmtree(out, ignore_errors=True)
    gaussians = ["dataset=gaussians", "depth=5", "steps=2000"]
    sizes = [128, 512] if args.quick else [128, 256, 512, 1024, 2048, 4096]
    study("gaussians", gaussians, sizes, 16384 if args.quick else 32768, 4, out)
    if not args.quick:
        mnist = ["dataset=mnist", f"dataset.root={args.root}", "dataset.download=false", "steps=1000"]
        mnist += ["evaluation.samples=2000"]
        study("mnist", [*mnist, "depth=4"], [256, 512, 1024, 2048], 16384, 2, out)


def study(name: str, keys: list[str], sizes: list[int], reference: int, seeds: int, out: Path) -> None:
    """Measure one task."""
    last = "particles.last=16384" if name == "mnist" else "particles.nodes=64"
    truth_dir = out / f"{name}-reference"
    sweep([*keys, f"dir={truth_dir}", "width=inf", f"particles.first={reference}", last, "seed.init=1000"])
    truth = curve(next(iter(find_runs(truth_dir))))
    counts = ",".join(map(str, sizes))
    methods = "sobol,antithetic,plain"
    swept = [
        f"particles.method={methods}",
        f"particles.first={counts}",
        f"seed.init={','.join(map(str, range(seeds)))}",
    ]
    sweep([*keys, f"dir={out / name}", "width=inf", *swept])
    rows = []
    for run in find_runs(out / name):
        cfg, frame = run.config(), curve(run)
        gap = (frame["loss"] - truth["loss"]).abs()
        bar = frame["bar"]
        rows.append(
            {
                "method": cfg.particles.method,
                "particles": cfg.particles.first,
                "error": np.sqrt((gap**2).mean()),
                "bar": np.sqrt((bar**2).mean()),
                "held": (gap <= bar + truth["bar"]).mean(),
            }
        )
    table = (
        pd.DataFrame(rows)
        .groupby(["method", "particles"])
        .agg(
            error=("error", lambda e: np.sqrt((e**2).mean())),
            bar=("bar", lambda e: np.sqrt((e**2).mean())),
            held=("held", "mean"),
        )
    )
    print(
        f"\n{name}: RMS error of the loss against {reference} Sobol particles "
        f"(their own bar: {np.sqrt((truth['bar'] ** 2).mean()):.1e}), {seeds} seeds"
    )
    print(table.to_string(float_format=lambda v: f"{v:.2e}" if v < 0.05 else f"{v:.2f}"))
    for method, rows_of in table.groupby(level=0):
        slope = np.polyfit(np.log(rows_of.index.get_level_values(1)), np.log(rows_of["error"]), 1)[0]
        print(f"{method}: error ~ N^{slope:.2f}")
    table.to_csv(out / f"{name}.csv")


def curve(run: RunDirectory) -> pd.DataFrame:
    """Loss and bar by step, over the steps after the first."""
    frame = run.metrics().set_index("step")
    loss = next(c for c in frame if c.endswith("_loss"))
    return frame.loc[1:, [loss, f"{loss}_bar"]].set_axis(["loss", "bar"], axis=1)


if __name__ == "__main__":
    main()
