"""Hold a checkout to an older one: small runs agree bit for bit, and the new one goes on with an old one's run.

    python scripts/same_numbers.py OLD_CHECKOUT

Every column of metrics.csv is compared as text, but for wall_seconds. The exit code is 0 where all agree.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

NEW = Path(__file__).resolve().parent.parent
COMMON = ["threads=1", "batch=20", "evaluation.samples=200", "steps=300"]
FEW = ["particles.first=64", "particles.last=32", "particles.nodes=5"]
RUNS = {
    "dense": ["width=40", "depth=4", "init.tau3=0.3", "alpha=0.01"],
    "cnn": ["architecture=cnn", "dataset=arrays", "dataset.path=images.npz", "loss=cross_entropy", "width=4",
            "architecture.layers=[{kernel: 3, pool: 2},{kernel: 3, stride: 2}]", "depth=3"],
    "inf": ["width=inf", "depth=4", "init.tau3=0.3", "init.tau2=2", "alpha=0.01", *FEW],
    "inf, cnn": ["architecture=cnn", "dataset=arrays", "dataset.path=images.npz", "loss=cross_entropy", "width=inf",
                 "architecture.layers=[{kernel: 3, pool: 2},{kernel: 3, stride: 2}]", "depth=3", *FEW],
    "neurons": ["width=30", "neuron=gate", "neuron.deviations=[0.3]", "init=uniform", "activation=sigmoid"],
    "operations": ["width=inf", "operation=of_sum", "depth=3", "init=rademacher", *FEW],
    "scalings": ["width=30", "scaling=standard", "init.mu2=0", "init.tau2=1", "init.tau3=0.2", "alpha=0.001"],
    "schedules": ["width=30", "schedule=power", "schedule.p=0.3", "schedule.multipliers=[1,2,1,0.5]",
                  "architecture.ratios=[1,2,0.5]"],
    "epochs": ["width=30", "dataset=arrays", "dataset.path=images.npz", "loss=cross_entropy", "sampling=epochs"],
    "float64": ["width=30", "dtype=float64", "activation=tanh", "alpha=0.05"],
    "replicates": ["width=30", "replicates=3", "replicate_data=independent", "architecture.biases=false"],
}  # fmt: skip


def mfrun(checkout: Path, *words: str) -> None:
    """One command from a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mfrun", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{checkout}: mfrun {' '.join(words)}\n{done.stderr}")


def rows(run: str) -> list[dict[str, str]]:
    """metrics.csv as text, without the one column that may differ."""
    with Path(run, "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "wall_seconds"} for row in csv.DictReader(file)]


def same(name: str, one: str, other: str) -> bool:
    """Say whether two runs agree."""
    a, b = rows(one), rows(other)
    differing = sorted({k for x, y in zip(a, b, strict=False) for k in x if x[k] != y.get(k)})
    fine = len(a) == len(b) and not differing
    print(f"{name:<22}{'same' if fine else 'DIFFERENT'}  {len(a)} rows, {len(a[0])} columns {' '.join(differing)}")
    return fine


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="the older checkout")
    old = parser.parse_args().old.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        rng = np.random.default_rng(0)
        images = {f"x_{s}": rng.integers(0, 256, (200, 8, 8, 3), dtype=np.uint8) for s in ("train", "test")}
        np.savez("images.npz", **images, y_train=np.arange(200) % 3, y_test=np.arange(200) % 3)
        fine = True
        for name, words in RUNS.items():
            for checkout, run in ((old, "old"), (NEW, "new")):
                mfrun(checkout, "train", *COMMON, *words, f"dir={run}/{name.replace(', ', '_')}")
            fine &= same(name, *(f"{run}/{name.replace(', ', '_')}" for run in ("old", "new")))
        mfrun(old, "train", *COMMON, *RUNS["dense"], "dir=resumed")
        mfrun(NEW, "train", "dir=resumed", "resume=true", "steps=700")
        mfrun(old, "train", *COMMON, *RUNS["dense"], "steps=700", "dir=straight")
        fine &= same("old run, resumed", "resumed", "straight")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
