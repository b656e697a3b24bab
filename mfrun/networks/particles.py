"""The types of a layer's neurons at n = infinity: quadrature nodes in few dimensions, particles in many."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mfrun.errors import ConfigError
from mfrun.networks.laws import Law
from mfrun.networks.measures import Measure
from mfrun.seeds import entropy

METHODS = ("sobol", "antithetic", "plain")
# A law that has no quadrature of so many nodes has fewer points than that, and they are its quadrature.
FEW = 8


@dataclass(frozen=True)
class Types:
    """Points of a law in R^m with their weights, for a stack of independent discretisations.

    Attributes:
        nodes: (stack, K, m), float64, in coordinates of mean 0 and variance 1.
        weights: (stack, K), each row summing to 1, or None for 1/K.
        period: after how many discretisations the same ones come again; None for never.
    """

    nodes: Tensor
    weights: Tensor | None
    period: int | None = None

    @property
    def count(self) -> int:
        """K, the number of types."""
        return self.nodes.shape[1]

    def together(self, sets: int) -> Types:
        """Every so many discretisations together as one, each of equal weight; rules that repeat are there once."""
        stack, K, m = self.nodes.shape
        if m == 0:
            return Types(self.nodes[: stack // sets], None)
        period = min(self.period or sets, sets)
        shares = torch.tensor([len(range(s, sets, period)) / sets for s in range(period)], dtype=torch.float64)
        nodes = self.nodes.view(-1, sets, K, m)[:, :period].reshape(-1, period * K, m)
        if self.weights is None and bool((shares == shares[0]).all()):
            return Types(nodes, None)
        weights = torch.full((stack, K), 1 / K, dtype=torch.float64) if self.weights is None else self.weights
        weights = weights.view(-1, sets, K)[:, :period] * shares[:, None]
        return Types(nodes, weights.reshape(-1, period * K))

    def measure(self) -> Measure:
        """The measure p of a layer with one neuron for each type."""
        return Measure.uniform(self.count) if self.weights is None else Measure(1.0, self.weights.unsqueeze(-1))


def roles(L: int) -> list[str]:
    """Which count of :class:`Particles` each of the layers 1 .. L takes."""
    return ["first", *["inner"] * (L - 2), *["last"] * (L > 1)]


@dataclass
class Particles:
    """How n = infinity is discretised.

    The particles are split into ``sets`` independent networks that train side by side on the same batches, and their
    union is one more: the sets' mean, less the bias that the union shows, is the curve, and their spread its error bar.

    Attributes:
        first: particles of the first layer, in all sets together.
        inner: types of each inner layer in all sets together, where they need particles, as labels do.
        last: types of the last hidden layer in all sets together, where they need particles.
        nodes: quadrature nodes for one scalar coordinate (a bias, or an output weight).
        sets: independent particle sets, at least 2.
        union: whether it is there. Without it the sets' mean is the curve, with the bias of a set in it.
        method: ``sobol`` (scrambled), ``antithetic`` (pairs mirrored at the mean) or ``plain``.
    """

    first: int = 4096
    inner: int = 512
    last: int = 1024
    nodes: int = 16
    sets: int = 4
    # Runs that are older than the key have none.
    union: bool = False
    method: str = "sobol"

    def __post_init__(self) -> None:
        if self.sets < 2:
            raise ConfigError("sets", self.sets, "must be at least 2, for an error bar")
        for key in ("first", "inner", "last"):
            value = getattr(self, key)
            if value < 2 * self.sets or value % (2 * self.sets):
                raise ConfigError(key, value, f"must be a multiple of 2 x sets = {2 * self.sets}")
        if self.nodes < 3:
            raise ConfigError("nodes", self.nodes, "must be at least 3")
        if self.method not in METHODS:
            raise ConfigError("method", self.method, f"one of {', '.join(METHODS)}")

    def types(self, law: Law, m: int, stack: int, seed: tuple[int, ...], *, layer: str, meta: bool = False) -> Types:
        """Discretise m independent coordinates, each with the law.

        Args:
            law: of every coordinate.
            m: dimension; 0 gives one type.
            stack: how many independent discretisations.
            seed: of the particles.
            layer: ``first``, ``inner`` or ``last``; the first takes particles wherever it is more than one-dimensional.
            meta: give particles shapes and no numbers, on the device ``meta``.
        """
        found = self._types(law, m, stack, seed, layer, meta)
        return replace(found, nodes=found.nodes.to("meta")) if meta else found

    def _types(self, law: Law, m: int, stack: int, seed: tuple[int, ...], layer: str, meta: bool) -> Types:
        if m == 0:
            return Types(torch.zeros((stack, 1, 0), dtype=torch.float64), None)
        first, budget = layer == "first", getattr(self, layer) // self.sets
        points = len(law.quadrature(FEW)[0])
        if points < FEW and points**m <= budget:  # The law has no others.
            return replace(_grids([_grid(law, m, FEW)] * stack), period=1)
        if m <= on_a_grid(layer):
            per_axis = budget if first else self.nodes
            # Members of the stack differ by a node, so that their spread shows the quadrature error.
            return replace(_grids([_grid(law, m, per_axis - s % 2) for s in range(stack)]), period=2)
        if meta:
            return Types(torch.empty((stack, budget, m), dtype=torch.float64, device="meta"), None)
        return Types(torch.stack([sample(self.method, law, m, budget, (*seed, s)) for s in range(stack)]), None)


def on_a_grid(layer: str) -> int:
    """Up to how many coordinates of a layer (``first``, ``inner``, ``last``) have a grid of nodes, and no particles."""
    return 1 if layer == "first" else 2


def sample(method: str, law: Law, m: int, count: int, seed: tuple[int, ...], *, purpose: str = "particles") -> Tensor:
    """Equal-weight points (count, m) of m independent coordinates, each with the law.

    Args:
        method: one of ``METHODS``.
        law: of every coordinate.
        m: dimension.
        count: number of points.
        seed: of the points.
        purpose: what they are for; points of one seed for another purpose are others.
    """
    rng = np.random.default_rng(entropy(purpose, *seed))
    if method == "sobol":
        # Slow to import, and finite networks do without.
        from scipy.stats import qmc

        with warnings.catch_warnings():
            # A count that is no power of 2 only loses some balance.
            warnings.simplefilter("ignore", UserWarning)
            u = qmc.Sobol(min(m, qmc.Sobol.MAXDIM), scramble=True, rng=rng).random(count)
        # Nobody has made the sequence for more coordinates; the rest of so many is independent of it.
        u = np.concatenate([u, rng.random((count, m - u.shape[1]))], 1)
    elif method == "antithetic":
        half = rng.random((count // 2, m))
        u = np.concatenate([half, 1 - half])
    else:
        u = rng.random((count, m))
    tiny = 2.0**-53
    return torch.from_numpy(law.quantile(np.clip(u, tiny, 1 - tiny)))


def _grid(law: Law, m: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Tensor-product rule: nodes (k^m, m), weights (k^m)."""
    x, w = law.quadrature(k)
    nodes = np.stack([g.ravel() for g in np.meshgrid(*[x] * m, indexing="ij")], -1)
    weights = np.prod(np.stack([g.ravel() for g in np.meshgrid(*[w] * m, indexing="ij")], -1), -1)
    return nodes, weights


def _grids(rules: list[tuple[np.ndarray, np.ndarray]]) -> Types:
    """Stack rules; the shorter ones are filled up with neurons of weight 0, which nothing sees."""
    count = max(len(w) for _, w in rules)
    nodes = [np.pad(x, ((0, count - len(x)), (0, 0))) for x, _ in rules]
    weights = [np.pad(w, (0, count - len(w))) for _, w in rules]
    if all(math.isclose(v, 1 / count, rel_tol=1e-12) for w in weights for v in w):
        return Types(torch.from_numpy(np.stack(nodes)), None)
    return Types(torch.from_numpy(np.stack(nodes)), torch.from_numpy(np.stack(weights)))
