#!/usr/bin/env python
"""Time of one SGD step at n = infinity against the matrix products in it.

    python scripts/bench_limit.py [--threads T] [--rounds R]

For each shape, interleaves R rounds of (a) whole training steps, sampling and loss included, (b) the step without
sampling, (c) the two products of the first layer alone, W_1 x and D_1 x^T, (d) all matrix products of the step alone,
with preallocated outputs, (e) the step without sampling of half as many particles in eight sets with their union, which
takes the same number of multiplications as these four sets without one. Reports medians in ms and the ratios to (b),
(c) and (d).
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch

from mfrun.dynamics.experiment import SMALL_STEP
from mfrun.dynamics.schedules import Constant, Rates
from mfrun.dynamics.taped import Taped
from mfrun.networks.activations import ReLU
from mfrun.networks.architecture import Blueprint
from mfrun.networks.dense import Dense, DenseWorkspace
from mfrun.networks.fully_connected import DenseArchitecture
from mfrun.networks.init import IID
from mfrun.networks.network import Network
from mfrun.networks.particles import Particles
from mfrun.problems.datasets import IsotropicGaussians
from mfrun.problems.losses import Squared
from mfrun.problems.streams import BLOCK

B = 100


def main() -> None:
    """Print one table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--rounds", type=int, default=15)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.threads} threads, batch {B}, float32")
    print(f"ms a step, medians of {args.rounds} rounds")
    heads = ("step", "no draws", "layer 1", "products", "step / layer 1", "step / products", "union / no draws")
    heads = (*heads, "union from a tape / no draws")
    print(f"{'d':>5} {'L':>2} {'particles':>9}  " + "  ".join(f"{h:>8}" for h in heads))
    for d, L, particles in ((32, 4, 4096), (32, 4, 2048), (784, 3, 4096), (3072, 3, 4096)):
        times = measure(d, L, particles, args.rounds)
        step, no_draws, layer, products, union, taped = (1e3 * t for t in times)
        cells = [f"{v:8.3f}" for v in (step, no_draws, layer, products)]
        cells += [f"{step / layer:14.2f}", f"{step / products:15.2f}", f"{union / no_draws:16.2f}"]
        cells += ["" if math.isnan(taped) else f"{taped / no_draws:28.2f}"]
        print(f"{d:>5} {L:>2} {particles:>9}  " + "  ".join(cells))


def measure(d: int, L: int, particles: int, rounds: int) -> list[float]:
    """Median seconds of the six contestants; NaN for a tape where the networks are too large for one."""

    def drawn(settings: Particles) -> Network:
        return DenseArchitecture().draw(Blueprint(ReLU(), IID(), math.inf, L + 1, d, 1, particles=settings))

    net = drawn(Particles(first=particles))
    assert isinstance(net, Dense)
    both_of = Particles(first=particles // 2, sets=8, union=True)
    both = drawn(both_of)
    together = both.workspace(B)
    stream = IsotropicGaussians(d=d).load(torch.float32, torch.device("cpu")).stream(0, B, "iid")
    rates = [r / B for r in Rates(Constant(), 1e-5, 1, L + 1).of_layers(0, 1)[0]]
    loss, ws = Squared(), DenseWorkspace(net, B)
    x, y = stream.batch(0)
    step = 0

    def whole() -> None:
        nonlocal step
        xb, yb = stream.batch(step)
        step += 1
        net.descend(xb, loss.gradient(yb, net.forward(xb, ws)), rates, ws)

    def without_draws() -> None:
        net.descend(x, loss.gradient(y, net.forward(x, ws)), rates, ws)

    # The same products, alone: forward, backward and update of every layer.
    W = [w.clone() for w in net.W]
    a = [torch.randn(w.shape[0], w.shape[1], B) for w in W]
    out = [torch.empty_like(h) for h in a]
    tall = W[0].view(-1, d)
    tall_out, tall_D = out[0].view(-1, B), a[0].view(-1, B)

    def first_layer() -> None:
        torch.mm(tall, x.T, out=tall_out)
        torch.addmm(tall, tall_D, x, alpha=-1e-9, out=tall)

    def products() -> None:
        first_layer()
        for l in range(1, L + 1):
            torch.bmm(W[l], a[l - 1], out=out[l])
            torch.bmm(W[l].mT, a[l], out=out[l - 1])
            torch.baddbmm(W[l], a[l], a[l - 1].mT, alpha=-1e-9, out=W[l])

    def union() -> None:
        both.descend(x, loss.gradient(y, both.forward(x, together)), rates, together)

    small = 3 * B * particles // 2 * d <= SMALL_STEP
    steps = Taped(drawn(both_of), stream, loss, Rates(Constant(), 1e-5, BLOCK, L + 1), B) if small else None
    contestants: list[Callable[[], None]] = [whole, without_draws, first_layer, products, union]
    calls = max(5, int(2e8 / (particles * d * B)))
    seen: list[list[float]] = [[] for _ in range(len(contestants) + 1)]
    for _ in range(rounds + 1):
        start = time.perf_counter()
        if steps is not None:
            steps.advance(0, BLOCK)
        seen[-1].append((time.perf_counter() - start) / BLOCK if steps is not None else math.nan)
        for times, contestant in zip(seen, contestants, strict=False):
            start = time.perf_counter()
            for _ in range(calls):
                contestant()
            times.append((time.perf_counter() - start) / calls)
    return [statistics.median(t[1:]) for t in seen]


if __name__ == "__main__":
    main()
