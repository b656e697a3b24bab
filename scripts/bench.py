#!/usr/bin/env python
"""Time of one SGD step of dense networks on the paper's shapes, against other ways to write it and the products alone.

    python scripts/bench.py [--threads T] [--rounds R] [--widths N,N,...] [--out bench.csv]

Contestants, interleaved, with one fixed batch each:

    ours        forward pass, loss, fused scaled backward pass and update, as mfrun train runs them once a run has
                lasted: small networks from a tape, others step by step
    by one      the same step by step, at every width
    plain       nn.Linear, autograd and optim.SGD with scaled rates, as one would write it
    plain 1DNN  the same with torch's products sent to oneDNN, the other route that torch has
    compiled    the same under torch.compile (--compile; needs a C++ compiler and half a minute a shape)
    jax         a jitted lax.scan over the steps, where JAX is installed (pip install 'mfrun[bench]')
    floor       the step's matrix products alone, each by its fastest route; or the bytes of its weights over the
                bandwidth of the memory, where that takes longer
    8 nets      ours with eight replicates side by side, time for each network (up to width 200)
    8 jax       the same by jax: the scan's step mapped over eight networks
    8 floor     the same products for eight networks, time for each network

Every contestant is first checked to make the same update. Reports medians in ms and ratios, and writes them as CSV.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

# One core a call, as in mfrun itself: larger products go to torch.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pandas as pd
import torch
from contestants import JaxScan, Plain, bandwidth, floor, plain_step
from torch import Tensor

from mfrun.dynamics.experiment import SMALL_STEP
from mfrun.dynamics.schedules import Constant, Rates
from mfrun.dynamics.steps import Eager, Steps
from mfrun.dynamics.tape import NotRecordable
from mfrun.dynamics.taped import Taped
from mfrun.networks.activations import ReLU
from mfrun.networks.architecture import Blueprint
from mfrun.networks.dense import Dense
from mfrun.networks.fully_connected import DenseArchitecture
from mfrun.networks.init import IID
from mfrun.networks.products import arrange
from mfrun.problems.losses import CrossEntropy
from mfrun.problems.streams import BLOCK, Batch, Stream

B, CLASSES, ALPHA = 100, 10, 0.01
SHAPES = ((32, 4), (784, 3), (3072, 3))
INIT = IID()
RATIOS = (
    ("ours", "floor"),
    ("plain", "ours"),
    ("plain 1DNN", "ours"),
    ("compiled", "ours"),
    ("ours", "jax"),
    ("by one", "ours"),
    ("ours", "8 nets"),
    ("8 nets", "8 jax"),
    ("8 nets", "8 floor"),
)


class Same(Stream):
    """One batch at every step."""

    nbytes = 0

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self._batch = x, y

    def batch(self, k: int) -> Batch:
        return self._batch

    def load(self, block: int) -> None:
        return

    def at(self, i: Tensor) -> Batch:
        return self._batch


def main() -> None:
    """Print one table and write it."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--widths", default="50,100,200,400,800,1600,2400")
    p.add_argument("--shapes", default=",".join(f"{d}x{L}" for d, L in SHAPES), help="DxL, hidden layers counted")
    p.add_argument("--compile", action="store_true", help="torch.compile as well")
    p.add_argument("--out", default="bench.csv")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    rows, copy = [], bandwidth()
    for d, L in (tuple(map(int, s.split("x"))) for s in args.shapes.split(",")):
        for n in map(int, args.widths.split(",")):
            rows.append({"d": d, "L": L, "n": n, **measure(d, L, n, args.rounds, args.compile, copy)})
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    for above, below in RATIOS:
        if above in table and below in table:
            table[f"{above} / {below}"] = table[above] / table[below]
    print(f"torch {torch.__version__}, {args.threads} threads, batch {B}, float32; ms a step, medians")
    print(table.to_string(index=False, float_format="{:.3f}".format, na_rep=""))
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out, index=False)


def measure(d: int, L: int, n: int, rounds: int, compiled: bool, copy: float) -> dict[str, object]:
    """Median ms a step of every contestant on one shape; ``copy`` is the memory's bandwidth."""
    torch.manual_seed(0)
    x, y = torch.randn(B, d), torch.randint(0, CLASSES, (B,))
    flops = 6 * B * (d * n + (L - 1) * n * n)
    calls = max(2, min(200, int(3e9 / flops)))
    products = arrange("float32", x.device, n)
    setting = torch.backends.mkldnn.matmul.fp32_precision

    def network(replicates: int) -> Dense:
        net = DenseArchitecture().draw(Blueprint(ReLU(), INIT, n, L + 1, d, CLASSES, replicates=replicates))
        net.products = products
        return net

    def ours(net: Dense, taped: bool) -> Callable[[], None]:
        given = (net, Same(x, y), CrossEntropy(), Rates(Constant(), ALPHA, BLOCK, L + 1), B)
        steps: Steps = Eager(*given)
        if taped and flops / 2 <= SMALL_STEP:
            with contextlib.suppress(NotRecordable):
                steps = Taped(*given)

        def advance() -> None:
            torch.backends.mkldnn.matmul.fp32_precision = setting
            steps.advance(0, calls)

        return advance

    def repeated(step: Callable[[], object], products: str = setting) -> Callable[[], None]:
        def steps() -> None:
            torch.backends.mkldnn.matmul.fp32_precision = products
            for _ in range(calls):
                step()

        return steps

    net = network(1)
    models = {name: Plain(net) for name in ("plain", "plain 1DNN", *(("compiled",) if compiled else ()))}
    contestants = {
        "ours": ours(net, True),
        "by one": ours(network(1), False),
        "floor": repeated(floor(net, x)),
        "plain": repeated(plain_step(models["plain"], models["plain"].optimizer(ALPHA), x, y), "ieee"),
        "plain 1DNN": repeated(plain_step(models["plain 1DNN"], models["plain 1DNN"].optimizer(ALPHA), x, y), "bf16"),
    }
    if compiled:
        optimizer = models["compiled"].optimizer(ALPHA)
        contestants["compiled"] = repeated(plain_step(torch.compile(models["compiled"]), optimizer, x, y), "ieee")
    try:
        jax = contestants["jax"] = JaxScan(net, x, y, ALPHA, calls)
    except ImportError:
        jax = None
    if n <= 200:
        eight = network(8)
        contestants["8 nets"] = ours(eight, True)
        if jax is not None:
            contestants["8 jax"] = JaxScan(eight, x, y, ALPHA, calls)
        floors = [floor(eight.member(s), x) for s in range(8)]
        contestants["8 floor"] = repeated(lambda: [one() for one in floors])

    seen: dict[str, list[float]] = {name: [] for name in contestants}
    for r in range(rounds + 1):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant()
            seen[name].append((time.perf_counter() - start) / calls)
        if r == 0:
            for l, W in enumerate(net.W):
                for model in models.values():
                    torch.testing.assert_close(W[0], model.layers[l].weight.detach(), rtol=1e-3, atol=1e-4)
                if jax is not None:
                    theirs = torch.tensor(jax.weights[l][0].tolist())
                    torch.testing.assert_close(W[0], theirs, rtol=1e-3, atol=1e-4)
    medians = {name: 1e3 * statistics.median(times[1:]) for name, times in seen.items()}
    # Every weight is read by the forward pass and by the backward pass, read and written by the update.
    memory = 1e3 * 4 * sum(w.nbytes for w in net.W) / copy if 4 * sum(w.nbytes for w in net.W) > 2**27 else 0.0
    medians["floor"] = max(medians["floor"], memory)
    for name in ("8 nets", "8 floor", "8 jax"):
        if name in medians:
            medians[name] /= 8
    return {"library": products.library, **medians}


if __name__ == "__main__":
    main()
