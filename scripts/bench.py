#!/usr/bin/env python
"""Time of one SGD step of finite networks: mfrun, plain PyTorch, and the matrix products alone.

    python scripts/bench.py [--threads T] [--rounds R] [--widths N,N,...] [--out bench.csv]

Contestants, interleaved, on the paper's shapes with one fixed batch:

    ours        forward pass, loss, fused scaled backward pass and update
    plain       nn.Linear, autograd and optim.SGD with scaled rates, as one would write it
    floor       the step's matrix products alone, into preallocated outputs
    8 nets      ours with eight replicates side by side, time for each network

Every contestant is first checked to make the same update. Reports medians in ms and ratios, and writes them as CSV.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from mfrun.networks.activations import ReLU
from mfrun.networks.build import DenseArchitecture, Init, build
from mfrun.networks.dense import Dense, Workspace
from mfrun.networks.laws import Normal
from mfrun.problems.losses import CrossEntropy

B, CLASSES, ALPHA = 100, 10, 0.01
SHAPES = ((32, 4), (784, 3), (3072, 3))
INIT = Init(Normal(), math.sqrt(2), 1.0, 0.1, 0.0, 0.0)


def main() -> None:
    """Print one table and write it."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--widths", default="50,100,200,400,800")
    p.add_argument("--out", default="bench.csv")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for d, L in SHAPES:
        for n in map(int, args.widths.split(",")):
            rows.append({"d": d, "L": L, "n": n} | measure(d, L, n, args.rounds))
    table = pd.DataFrame(rows)
    table["ours / floor"] = table["ours"] / table["floor"]
    table["plain / ours"] = table["plain"] / table["ours"]
    table["ours / 8 nets"] = table["ours"] / table["8 nets"]
    print(f"torch {torch.__version__}, {args.threads} threads, batch {B}, float32; ms a step, medians")
    print(table.to_string(index=False, float_format="{:.3f}".format))
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out, index=False)


class Plain(nn.Module):
    """The same network with nn.Linear; sums over neurons become means in the forward pass."""

    def __init__(self, net: Dense) -> None:
        super().__init__()
        sizes = [net.d, *net.widths, net.n_out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        with torch.no_grad():
            for layer, W, b in zip(self.layers, net.W, net.b or [], strict=True):
                layer.weight.copy_(W[0])
                layer.bias.copy_(b[0, :, 0])

    def forward(self, x: Tensor) -> Tensor:
        """Eq. (38) by rows."""
        for i, layer in enumerate(self.layers):
            x = layer(x) if i == 0 else nn.functional.linear(torch.relu(x) / x.shape[1], layer.weight, layer.bias)
        return x

    def optimizer(self) -> torch.optim.SGD:
        """Rates scaled as in Section 3.1: n_l n_{l-1} for W_l, n_l for biases, 1 at the output."""
        groups = []
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            rows = layer.weight.shape[0] if i < last else 1
            columns = layer.weight.shape[1] if i > 0 else 1
            groups += [{"params": [layer.weight], "lr": ALPHA * rows * columns}]
            groups += [{"params": [layer.bias], "lr": ALPHA * rows}]
        return torch.optim.SGD(groups)


def measure(d: int, L: int, n: int, rounds: int) -> dict[str, float]:
    """Median ms of every contestant on one shape."""
    torch.manual_seed(0)
    x, y = torch.randn(B, d), torch.randint(0, CLASSES, (B,))
    loss = CrossEntropy()

    def network(replicates: int) -> Dense:
        return build(DenseArchitecture(), ReLU(), INIT, width=n, depth=L + 1, d=d, n_out=CLASSES, replicates=replicates)

    def stepper(net: Dense) -> Callable[[], None]:
        ws, rates = Workspace(net, B), [ALPHA / B] * (L + 1)

        def step() -> None:
            net.descend(x, loss.gradient(y, net.forward(x, ws)), rates, ws)

        return step

    net, eight = network(1), network(8)
    plain = Plain(net)
    optimizer = plain.optimizer()

    def plain_step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(x), y).backward()
        optimizer.step()

    ours = stepper(net)
    for _ in range(3):
        ours()
        plain_step()
    for mine, layer in zip(net.W, plain.layers, strict=True):
        torch.testing.assert_close(mine[0], layer.weight.detach(), rtol=1e-4, atol=1e-5)

    products = floor(net, x)
    contestants = {"ours": ours, "plain": plain_step, "floor": products, "8 nets": stepper(eight)}
    flops = 6 * B * (d * n + (L - 1) * n * n)
    calls = max(3, min(200, int(3e9 / flops)))
    seen: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            for _ in range(calls):
                contestant()
            seen[name].append((time.perf_counter() - start) / calls)
    medians = {name: 1e3 * statistics.median(times[1:]) for name, times in seen.items()}
    medians["8 nets"] /= 8
    return medians


def floor(net: Dense, x: Tensor) -> Callable[[], None]:
    """The products of one step: forward and update of every layer, backward of all but the first."""
    W = [w[0].clone() for w in net.W]
    a = [torch.randn(w.shape[0], B) for w in W]
    out = [torch.empty_like(h) for h in a]

    def products() -> None:
        torch.mm(W[0], x.T, out=out[0])
        torch.addmm(W[0], a[0], x, alpha=-1e-9, out=W[0])
        for l in range(1, len(W)):
            torch.mm(W[l], a[l - 1], out=out[l])
            torch.mm(W[l].T, a[l], out=out[l - 1])
            torch.addmm(W[l], a[l], a[l - 1].T, alpha=-1e-9, out=W[l])

    return products


if __name__ == "__main__":
    main()
