"""The time of a step of a width stood for by N neurons, against a real network of N neurons, interleaved.

With --cifar FILE.npz also the time to a curve of n = 2400 on CIFAR-10 through 256 neurons, and the error that it makes.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from mfrun.config import validated
from mfrun.dynamics.experiment import Experiment, assemble
from mfrun.shell.compose import compose


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="data", help="folder of MNIST")
    parser.add_argument("--cifar", help="an .npz of CIFAR-10")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    mnist = ["dataset=mnist", f"dataset.root={args.root}", "depth=4"]
    print(f"torch {torch.__version__}, {args.threads} thread(s), batch 100; ms a step of each network, medians")
    for N in (128, 256, 512):
        for starts in (1, 16):
            real, stood = times([*mnist, f"replicates={starts}"], [[f"width={N}"], ["width=1e6", f"neurons={N}"]])
            each = f"real {real / starts:.3f}  stood for {stood / starts:.3f}  ratio {stood / real:.2f}"
            print(f"N = {N:<4} {starts:>2} side by side  {each}")
    if args.cifar:
        cifar([f"dataset.path={args.cifar}"])


def of(words: list[str]) -> Experiment:
    """The experiment of these keys."""
    words = [w.replace("1e6", "1000000") for w in words]
    return assemble(validated(compose(words, [])))


def times(base: list[str], contestants: list[list[str]], rounds: int = 9, count: int = 40) -> list[float]:
    """Milliseconds of a step of each."""
    all_steps = []
    for words in contestants:
        e = of([*base, *words])
        all_steps.append(e.steps(e.network(), e.stream()))
    at, found = [0] * len(all_steps), [[] for _ in all_steps]
    for _ in range(rounds + 1):
        for i, steps in enumerate(all_steps):
            begin, to = time.perf_counter(), at[i] + count
            while at[i] < to:
                at[i] = steps.advance(at[i], to)
            found[i].append(1e3 * (time.perf_counter() - begin) / count)
    return [statistics.median(f[1:]) for f in found]


def cifar(base: list[str], steps: int = 600, starts: int = 4) -> None:
    """A curve of n = 2400: one real start, and four through 256 neurons."""
    base = ["dataset=arrays", *base, "depth=4", "loss=cross_entropy", "alpha=0.01", f"steps={steps}"]
    curves = {}
    for name, words in (("real", ["width=2400"]), ("stood for", ["width=2400", "neurons=256", f"replicates={starts}"])):
        e = of([*base, *words])
        network, evaluator = e.network(), e.evaluator(2000)
        run, k, values, spent = e.steps(network, e.stream()), 0, [], 0.0
        for mark in (100, 200, 400, steps):
            begin = time.perf_counter()
            while k < mark:
                k = run.advance(k, mark)
            spent += time.perf_counter() - begin
            values.append(np.array([float(v) for v in evaluator(network)["test_loss"]]))
        curves[name] = np.array(values)
        print(f"CIFAR-10, 4 layers, n = 2400, {steps} steps, {name}: {spent / e.replicates:.1f} s a start")
    gap = curves["stood for"].mean(1) - curves["real"].mean(1)
    print(
        "  test loss at steps 100, 200, 400,",
        steps,
        "real",
        curves["real"].mean(1).round(4),
        "difference",
        gap.round(4),
    )
    print("  deviation over starts", curves["stood for"].std(1, ddof=1).round(4))


if __name__ == "__main__":
    main()
