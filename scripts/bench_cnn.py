#!/usr/bin/env python
"""Time of one SGD step of the network of Table 1: mfrun and plain PyTorch.

    python scripts/bench_cnn.py [--threads T] [--rounds R] [--widths N,N,...] [--out bench_cnn.csv]

Contestants, interleaved, on one fixed batch of 100 images of 32 x 32 x 3:

    ours        forward pass, loss, fused scaled backward pass and update
    plain       nn.Conv2d, autograd and optim.SGD with scaled rates, as one would write it
    plain last  the same with its images and weights in channels_last memory

Every contestant is first checked to make the same update. Reports medians in ms and ratios, and writes them as CSV.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from pathlib import Path

import pandas as pd
import torch
from contestants import Step, plain_step
from omegaconf import OmegaConf
from torch import Tensor, nn

from mfrun.config import conf_dir
from mfrun.networks.activations import ReLU
from mfrun.networks.architecture import Blueprint
from mfrun.networks.cnn import ConvArchitecture
from mfrun.networks.conv import Conv
from mfrun.networks.init import IID
from mfrun.problems.losses import CrossEntropy
from mfrun.registry import create

B, CLASSES, ALPHA, IMAGE = 100, 10, 0.08, (32, 32, 3)
INIT = IID(tau2=math.sqrt(0.1))


def main() -> None:
    """Print one table and write it."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--widths", default="16,32,64")
    p.add_argument("--out", default="bench_cnn.csv")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    table = pd.DataFrame([{"n": n} | measure(n, args.rounds) for n in map(int, args.widths.split(","))])
    for name in ("plain", "plain last"):
        table[f"{name} / ours"] = table[name] / table["ours"]
    print(f"torch {torch.__version__}, {args.threads} threads, Table 1, batch {B}, float32; ms a step, medians")
    print(table.to_string(index=False, float_format="{:.3f}".format))
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out, index=False)


def table_1() -> ConvArchitecture:
    """The layers of conf/architecture/cnn.yaml."""
    node = OmegaConf.to_container(OmegaConf.load(conf_dir() / "architecture" / "cnn.yaml"))
    return create("architecture", node["architecture"], "architecture")  # type: ignore[call-overload, index]


class Plain(nn.Module):
    """nn.Conv2d, ReLU, max-pooling and nn.Linear; sums become means in the forward pass (Appendix C)."""

    def __init__(self, net: Conv, memory: torch.memory_format) -> None:
        super().__init__()
        assert net.b is not None
        self.memory = memory
        self.geometry = net.layers
        self.convolutions = nn.ModuleList(
            nn.Conv2d(w.shape[2], w.shape[1], layer.kernel, layer.stride, layer.pad)
            for w, layer in zip(net.W, net.layers, strict=False)
        )
        beta = net.W[-1][0]
        self.output = nn.Linear(beta[0].numel(), net.n_out)
        with torch.no_grad():
            for conv, W, b in zip(self.convolutions, net.W, net.b, strict=False):
                conv.weight.copy_(W[0])
                conv.bias.copy_(b[0])
            self.output.weight.copy_(beta.flatten(1))
            self.output.bias.copy_(net.b[-1][0])
        self.to(memory_format=memory)

    def forward(self, x: Tensor) -> Tensor:
        """(B, d), channels last, -> (B, classes)."""
        a = x.view(-1, *IMAGE).permute(0, 3, 1, 2).contiguous(memory_format=self.memory)
        for l, (conv, layer) in enumerate(zip(self.convolutions, self.geometry, strict=True)):
            terms = 1 if l == 0 else conv.weight[0].numel()
            a = torch.relu(nn.functional.conv2d(a / terms, conv.weight, conv.bias, conv.stride, conv.padding))
            if layer.pool > 1:
                a = nn.functional.max_pool2d(a, layer.pool, layer.pool_stride, layer.pool_padding)
        a = a.flatten(1)
        return self.output(a / a.shape[1])

    def optimizer(self) -> torch.optim.SGD:
        """Rates as the forward pass is scaled: n_l times the terms of the sum; n_l for biases, 1 at the output."""
        groups = []
        for l, layer in enumerate([*self.convolutions, self.output]):
            rows = layer.weight.shape[0] if l < len(self.convolutions) else 1
            groups += [{"params": [layer.weight], "lr": ALPHA * rows * (layer.weight[0].numel() if l else 1)}]
            groups += [{"params": [layer.bias], "lr": ALPHA * rows}]
        return torch.optim.SGD(groups)


def measure(n: int, rounds: int) -> dict[str, float]:
    """Median ms of every contestant at width n."""
    torch.manual_seed(0)
    x, y = torch.rand(B, math.prod(IMAGE)) * 2 - 1, torch.randint(0, CLASSES, (B,))
    architecture = table_1()
    depth = len(architecture.layers) + 1
    net = architecture.draw(Blueprint(ReLU(), INIT, n, depth, math.prod(IMAGE), CLASSES, image=IMAGE))
    start = [w[0].clone() for w in net.W]
    plain = {name: Plain(net, getattr(torch, f)) for name, f in PLAIN.items()}
    contestants: dict[str, Step] = {"ours": ours(net, x, y)}
    contestants |= {name: plain_step(model, model.optimizer(), x, y) for name, model in plain.items()}
    for step in contestants.values():
        for _ in range(3):
            step()
    for model in plain.values():
        for mine, before, layer in zip(net.W, start, [*model.convolutions, model.output], strict=True):
            moved = (mine[0] - before).flatten(1)
            theirs = layer.weight.detach().flatten(1) - before.flatten(1)
            assert float((moved - theirs).norm() / moved.norm()) < 0.02, "another update"

    seen: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, step in contestants.items():
            begin = time.perf_counter()
            step()
            step()
            seen[name].append((time.perf_counter() - begin) / 2)
    return {name: 1e3 * statistics.median(times[1:]) for name, times in seen.items()}


PLAIN = {"plain": "contiguous_format", "plain last": "channels_last"}


def ours(net: Conv, x: Tensor, y: Tensor) -> Step:
    """A step as the training loop makes it."""
    ws, rates, loss = net.workspace(B), [ALPHA / B] * len(net.W), CrossEntropy()

    def step() -> None:
        net.descend(x, loss.gradient(y, net.forward(x, ws)), rates, ws)

    return step


if __name__ == "__main__":
    main()
