"""What the benchmark sets mfrun against: the same network and the same update, as others would write them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mfrun.networks.dense import Dense
from mfrun.networks.products import routes

Step = Callable[[], object]


class Plain(nn.Module):
    """nn.Linear and ReLU; sums over neurons become means in the forward pass (Eq. 38)."""

    def __init__(self, net: Dense) -> None:
        super().__init__()
        sizes = [net.d, *net.widths, net.n_out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        with torch.no_grad():
            for layer, W, b in zip(self.layers, net.W, net.b or [], strict=True):
                layer.weight.copy_(W[0])
                layer.bias.copy_(b[0, :, 0])

    def forward(self, x: Tensor) -> Tensor:
        """(B, d) -> (B, classes)."""
        x = self.layers[0](x)
        for layer in self.layers[1:]:
            x = nn.functional.linear(torch.relu(x) / x.shape[1], layer.weight, layer.bias)
        return x

    def optimizer(self, alpha: float) -> torch.optim.SGD:
        """Rates scaled as in Section 3.1: n_l n_{l-1} for W_l, n_l for biases, 1 at the output."""
        groups = []
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            rows = layer.weight.shape[0] if i < last else 1
            columns = layer.weight.shape[1] if i > 0 else 1
            groups += [{"params": [layer.weight], "lr": alpha * rows * columns}]
            groups += [{"params": [layer.bias], "lr": alpha * rows}]
        return torch.optim.SGD(groups)


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Step:
    """One step by autograd and optim.SGD."""

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


class JaxScan:
    """A jitted lax.scan over ``length`` steps of one batch, weights donated; mapped over the networks of a stack.

    Raises:
        ImportError: JAX is not installed.
    """

    def __init__(self, net: Dense, x: Tensor, y: Tensor, alpha: float, length: int) -> None:
        import jax
        import jax.numpy as jnp

        assert net.b is not None
        self._jax = jax
        stacked = net.replicates > 1
        self.weights = [
            tuple(jnp.asarray((v if stacked else v[0]).numpy().copy()) for v in pair)
            for pair in zip(net.W, net.b, strict=True)
        ]
        scale = [1.0, *(1.0 / n for n in net.widths), 1.0]
        inputs, target, rate = jnp.asarray(x.numpy().T), jax.nn.one_hot(y.numpy(), net.n_out).T, alpha / len(x)
        L = len(net.widths)

        def step(weights, _):
            a, h = [inputs], []
            for l, (W, b) in enumerate(weights):
                h.append(b + scale[l] * (W @ a[l]))
                a.append(jnp.maximum(h[l], 0))
            D = jax.nn.softmax(h[L], axis=0) - target
            moved = list(weights)
            for l in range(L, -1, -1):
                W, b = weights[l]
                moved[l] = (W - rate * (D @ a[l].T), b - rate * D.sum(1, keepdims=True))
                if l > 0:
                    D = jnp.where(h[l - 1] > 0, scale[l + 1] * (W.T @ D), 0)
            return moved, None

        def scan(weights):
            return jax.lax.scan(step, weights, None, length=length)[0]

        self._run = jax.jit(jax.vmap(scan) if stacked else scan, donate_argnums=0)

    def __call__(self) -> None:
        """All steps of the scan."""
        self.weights = self._run(self.weights)
        self._jax.block_until_ready(self.weights)


def floor(net: Dense, x: Tensor) -> Step:
    """The products of one step, each by its fastest route: forward, update, and backward in all layers but one."""
    B = len(x)
    W = [w[0].clone() for w in net.W]
    a = [torch.randn(w.shape[0], B) for w in W]
    out = [torch.empty_like(h) for h in a]
    products = [_fastest(out[0], W[0], x.T, None), _fastest(W[0], a[0], x, W[0])]
    for l in range(1, len(W)):
        products.append(_fastest(out[l], W[l], a[l - 1], None))
        products.append(_fastest(out[l - 1], W[l].T, a[l], None))
        products.append(_fastest(W[l], a[l], a[l - 1].T, W[l]))

    def step() -> None:
        for product in products:
            product(1e-9)

    return step


def _fastest(out: Tensor, A: Tensor, B: Tensor, start: Tensor | None) -> Callable[[float], object]:
    def seconds(product: Callable[[float], object]) -> float:
        times = []
        for _ in range(7):
            begin = time.perf_counter()
            product(1e-9)
            times.append(time.perf_counter() - begin)
        return min(times)

    return min((route(out, A, B, start) for route in routes(out)), key=seconds)


def bandwidth() -> float:
    """Bytes a second of a copy that no cache can hold, reads and writes counted."""
    a = torch.zeros(2**26)
    b = torch.empty_like(a)
    times = []
    for _ in range(6):
        begin = time.perf_counter()
        b.copy_(a)
        times.append(time.perf_counter() - begin)
    return 2 * a.nbytes / min(times[1:])
