"""What the dry run predicts against what short runs take: the table of docs/scale.md.

    taskset -c 0 python scripts/bench_plan.py --mnist FOLDER --cifar FILE.npz

Each run is predicted and then trained in a process of its own, on one thread: CPU seconds, and MiB by which the process
grows from the trained network's start to its end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

MNIST, CIFAR = "dataset=mnist dataset.root={mnist}", "dataset=arrays dataset.path={cifar} loss=cross_entropy"
CNN = "architecture=cnn"
CASES = {
    "Gaussians, 5 layers, n = 50, 20000 steps": "depth=5 width=50 steps=20000",
    "Gaussians, 5 layers, n = 400, 2000 steps": "depth=5 width=400 steps=2000",
    "Gaussians, 5 layers, n = infinity, 3000 steps": "depth=5 width=inf steps=3000",
    "MNIST, 4 layers, n = 100, 5000 steps": f"{MNIST} width=100 steps=5000",
    "MNIST, 4 layers, n = 100, 8 replicates, 1000 steps": f"{MNIST} width=100 replicates=8 steps=1000",
    "MNIST, 4 layers, n = 800, 500 steps": f"{MNIST} width=800 steps=500",
    "MNIST, 4 layers, n = infinity, 200 steps": f"{MNIST} width=inf steps=200",
    "CIFAR-10, 4 layers, n = 400, 400 steps": f"{CIFAR} width=400 steps=400",
    "CIFAR-10, 4 layers, n = 2400, 60 steps, 2000 samples": f"{CIFAR} width=2400 steps=60 evaluation.samples=2000",
    "MNIST, Table 1's CNN, n = 16, 300 steps": f"{MNIST} {CNN} width=16 steps=300 evaluation.samples=1000",
    "CIFAR-10, Table 1's CNN, n = 64, 40 steps": f"{CIFAR} {CNN} width=64 steps=40 evaluation.samples=500",
    "CIFAR-10, Table 1's CNN, n = infinity, 40 steps": f"{CIFAR} {CNN} width=inf steps=40 evaluation.samples=500",
}


def measure(words: list[str]) -> dict[str, float]:
    """Predict and train one run in this process."""
    import resource
    import tempfile
    import time
    from pathlib import Path

    import torch

    from mfrun.dynamics import Problems
    from mfrun.runs import RunDirectory
    from mfrun.shell import compose_whole, keys
    from mfrun.sweeps import Run, estimate

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run = Run.checked(
            keys(compose_whole([*words, f"dir={folder}"], [])), RunDirectory(Path(folder, "r")), Problems()
        )
        planned = estimate.Planned(run.job(), run.experiment)
        estimate.measure([planned])
        held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        begin = time.process_time()
        run.train(1)
        real = time.process_time() - begin
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - held
    bytes_predicted = max(planned.memory.start, planned.memory.training)
    return {"predicted": planned.seconds(1), "real": real, "MiB": bytes_predicted / 2**20, "grown": grown / 2**20}


def main() -> None:
    """Print the table's lines as they are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", default="data", help="a folder with MNIST in torchvision's layout")
    parser.add_argument("--cifar", default="cifar10.npz", help="CIFAR-10 as arrays, x_train, y_train, x_test, y_test")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one.split())))
        return
    print("| run | predicted s | real s | ratio | predicted MiB | grew by MiB |\n|---|---|---|---|---|---|")
    for name, words in CASES.items():
        filled = words.format(mnist=args.mnist, cifar=args.cifar)
        done = subprocess.run(
            [sys.executable, __file__, "--one", filled], stdout=subprocess.PIPE, text=True, check=True
        )
        m = json.loads(done.stdout.splitlines()[-1])
        ratio = m["predicted"] / m["real"]
        print(
            f"| {name} | {m['predicted']:.3g} | {m['real']:.3g} | {ratio:.2f} | {m['MiB']:.0f} | {m['grown']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
