#!/usr/bin/env python
"""Whole runs: the first step, the share of evaluations, the memory, and a sweep against the best schedule.

    python scripts/bench_runs.py --root FOLDER_OF_MNIST [--cifar FILE.npz] [--parts start,evaluation,memory,sweep]

    start       seconds from an imported torch to the end of a run of one step on MNIST, evaluations included
    evaluation  their share of a run of 10^5 steps, from the measured time of one and of a step
    memory      peak resident memory of a run at n = 2400 on CIFAR-10, beside what it has to hold
    sweep       a sweep's time beside the best schedule of its runs' own times, on one core and on all

Writes outputs/bench_runs.csv.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pandas as pd
from hydra import compose, initialize_config_dir

from mfrun import config
from mfrun.dynamics.evaluate import Evaluator, grid
from mfrun.dynamics.experiment import Experiment, assemble
from mfrun.sweeps.side_by_side import available_cores

LONG = 100_000
SHORT = """
import json, resource, sys, time, torch
begin = time.perf_counter()
from mfrun import cli
try:
    cli.main(sys.argv[1:])
except SystemExit:
    pass
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": time.perf_counter() - begin, "peak": peak}))
"""


def main() -> None:
    """Measure the parts that are asked for."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--root", default="data", help="folder of MNIST")
    p.add_argument("--cifar", help="an .npz of CIFAR-10 for dataset=arrays; without it torchvision's, below --root")
    p.add_argument("--parts", default="start,evaluation,memory,sweep")
    p.add_argument("--out", default="outputs/bench_runs.csv")
    args = p.parse_args()
    mnist = ["dataset=mnist", f"dataset.root={args.root}"]
    cifar = ["dataset=cifar10", f"dataset.root={args.root}"]
    if args.cifar:
        cifar = ["dataset=arrays", f"dataset.path={args.cifar}", "loss=cross_entropy", "alpha=0.07"]
    rows: list[dict[str, object]] = []
    parts = {
        "start": lambda: start(mnist),
        "evaluation": lambda: evaluation(mnist),
        "memory": lambda: memory(cifar),
        "sweep": lambda: sweep(),
    }
    for part in args.parts.split(","):
        for row in parts[part]():
            rows.append({"part": part, **row})
            print(rows[-1], flush=True)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(args.out, index=False)


def short(*argv: str) -> dict[str, float]:
    """``mfrun ARGV`` in a process that has imported torch: its seconds since, and its peak memory."""
    done = subprocess.run([sys.executable, "-c", SHORT, *argv], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def start(data: list[str]) -> list[dict[str, object]]:
    """The median of five."""
    rows = []
    for n in (100, 400):
        with tempfile.TemporaryDirectory() as folder:
            argv = ["train", *data, "depth=4", f"width={n}", "steps=1"]
            seconds = sorted(short(*argv, f"dir={folder}/{i}")["seconds"] for i in range(5))
        rows.append({"n": n, "seconds to the end of step 1": seconds[2]})
    return rows


def experiment(argv: list[str]) -> Experiment:
    """What ``mfrun train ARGV`` sets up."""
    config.store_schema()
    with initialize_config_dir(str(config.conf_dir()), version_base="1.3"):
        return assemble(config.validated(compose("config", overrides=argv)))


def evaluation(data: list[str]) -> list[dict[str, object]]:
    """Medians of several evaluations and of blocks of steps."""
    rows = []
    for name, argv, n in itertools.product(("mnist", "gaussians"), [[]], (50, 100, 400, "inf")):
        chosen = data if name == "mnist" else ["dataset=gaussians"]
        e = experiment([*chosen, *argv, "depth=4", f"width={n}"])
        cfg, network = e.cfg, e.network()
        sets = e.problem.evaluation(0, cfg.evaluation.samples)
        evaluator = Evaluator(sets, e.problem.task, e.loss, {})
        steps = replace(e, cfg=replace(cfg, steps=LONG)).steps(network, e.stream())

        def seconds(what: object) -> float:
            begin = time.perf_counter()
            what()  # type: ignore[operator]
            return time.perf_counter() - begin

        one = sorted(seconds(lambda: evaluator(network)) for _ in range(5))[2]  # noqa: B023
        ends = itertools.pairwise(range(0, 6 * 128, 128))
        step = sorted(seconds(lambda: steps.advance(a, b)) / 128 for a, b in ends)[2]  # noqa: B023
        share = one * len(grid(LONG, cfg.evaluation.points_per_decade)) / (step * LONG)
        rows.append({"data": name, "n": n, "evaluation ms": 1e3 * one, "step ms": 1e3 * step, "share": share})
    return rows


def memory(data: list[str]) -> list[dict[str, object]]:
    """MiB; the target is data + 1.3 weights + activations + the imports."""
    mib = 2**20
    argv = [*data, "depth=4", "width=2400", "steps=20"]
    e = experiment(argv)
    weights = 4 * sum(j * k + k for j, k in itertools.pairwise([e.problem.d, 2400, 2400, 2400, 10]))
    held = sum(x.nbytes + y.nbytes for x, y in e.problem.data.values())  # type: ignore[attr-defined]
    # A training batch has h, a and D, a chunk of an evaluation h and a.
    activations = 4 * (3 * 2400 * (3 * 100 + 2 * 1000) + e.problem.d * 1100)
    imports = "import torch, mfrun.sweeps.launch, mfrun.dynamics.train, resource;"
    if data[0] == "dataset=cifar10":
        imports += "import torchvision;"
    told = "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    base = int(subprocess.run([sys.executable, "-c", imports + told], capture_output=True, check=True).stdout)
    with tempfile.TemporaryDirectory() as folder:
        peak = short("train", *argv, f"dir={folder}/r")["peak"]
    target = held + 1.3 * weights + activations + base
    parts = {"data": held, "weights": weights, "activations": activations, "imports": base}
    named = {f"{name} MiB": size / mib for name, size in parts.items()}
    return [{"n": 2400, **named, "peak MiB": peak / mib, "target MiB": target / mib, "peak / target": peak / target}]


def sweep() -> list[dict[str, object]]:
    """Every run by itself, on one core and on all; the best way to share the cores out; the sweep. Whole processes."""
    total = available_cores()
    widths = [50, 100, 200, 400, 800, "inf"]
    argv = ["dataset=gaussians", "depth=5", "steps=4000"]

    def seconds(*words: str) -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "mfrun", *words], check=True, capture_output=True)
        return time.perf_counter() - begin

    with tempfile.TemporaryDirectory() as folder:
        one, wide = (
            [seconds("train", *argv, f"width={n}", f"threads={k}", f"dir={folder}/{k}-{n}") for n in widths]
            for k in (1, total)
        )
        together = seconds("sweep", *argv, f"widths=[{','.join(map(str, widths))}]", f"dir={folder}/sweep")
    best = best_schedule(one, wide, total)
    rows: list[dict[str, object]] = [
        {"n": n, "one core s": a, f"{total} cores s": b} for n, a, b in zip(widths, one, wide, strict=True)
    ]
    rows.append({"n": "sweep", "seconds": together, "best schedule s": best, "sweep / best": together / best})
    return rows


def best_schedule(one: Sequence[float], wide: Sequence[float], cores: int) -> float:
    """The soonest end over all choices of the runs that take all cores and all assignments of the others."""
    best = math.inf
    for where in itertools.product(range(cores + 1), repeat=len(one)):
        load = [sum(s for s, w in zip(one, where, strict=True) if w == core) for core in range(cores)]
        best = min(best, max(load) + sum(s for s, w in zip(wide, where, strict=True) if w == cores))
    return best


if __name__ == "__main__":
    main()
