"""Local operations sigma*(w, a): what a weight does with the neuron below (Section 2.4, "On the local operation").

    h_l = b_l + (1/n_{l-1}) sum_i sigma*(W_l,ji, a_{l-1,i}),    a_{l-1} = sigma(h_{l-1}),    l = 2 .. L.

The paper's sigma*(w, h) takes the pre-activation; here it is composed of sigma and an operation, and
``activation=linear`` leaves the operation alone. The first layer stays W_1 x, and the output stays the average of
beta sigma(h_L): beta is a component of theta_L in Eq. (38), not a weight between neurons.

At n = infinity the law of w_ji matters, not its mean alone (docs/neurons.md). W_l then holds Q values for each pair of
types, quadrature nodes of the initial law that move apart, (K_l, K_{l-1} Q) with the probabilities omega of the nodes:
the layer of a network whose lower neurons are there Q times, each with the weight p_i omega_q.

To add one: subclass :class:`Pointwise` (or :class:`Operation`, for one that needs no blocks), ``@register`` it, add
``conf/operation/NAME.yaml``.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mfrun.errors import ConfigError
from mfrun.networks.activations import Activation
from mfrun.networks.entrywise import refuse_unless_entrywise, refuse_wrong_derivatives
from mfrun.networks.measures import Measure
from mfrun.networks.products import Prepared, Products
from mfrun.registry import base, checks, find, imported, register

# Entries of a block of sigma*(w, a), (neurons, neurons below, batch): 1 MB of float32 stays in a core's cache, a GPU
# wants larger pieces. There are a few such arrays at a time.
BLOCK = {"cpu": 2**18, "cuda": 2**22}


@dataclass(frozen=True)
class Connection:
    """The arrays on both sides of W_l in one workspace; (S, ...), or without S for one network.

    Attributes:
        products: how matrices are multiplied.
        W: (S, n_l, n_{l-1} Q).
        b: (S, n_l, 1) or None.
        omega: probabilities (S, Q) of the nodes, or None for Q = 1.
        p: the measures p_{l-1} and p_l.
        a: a_{l-1}, (S, n_{l-1}, B).
        pa: the same times the weights of p_{l-1}.
        h: h_l, (S, n_l, B).
        D: D_l, like h; of no size in a workspace for forward passes only, and so the next two.
        pD: the same times the weights of p_l.
        bracket: what D_{l-1} has before the derivative of its own neuron, like a.
    """

    products: Products
    W: Tensor
    b: Tensor | None
    omega: Tensor | None
    p: tuple[Measure, Measure]
    a: Tensor
    pa: Tensor
    h: Tensor
    D: Tensor | None = None
    pD: Tensor | None = None
    bracket: Tensor | None = None

    def members(self) -> list[Connection]:
        """Those of the S networks, one by one."""
        if self.W.dim() == 2:
            return [self]

        def one(value: Any, s: int) -> Any:
            if isinstance(value, Tensor):
                return value[s]
            if isinstance(value, tuple):
                return tuple(m.member(s) for m in value)
            return value

        names = [f.name for f in dataclasses.fields(self)]
        return [Connection(**{k: one(getattr(self, k), s) for k in names}) for s in range(len(self.W))]


# up, down and move of a layer, as :class:`mfrun.networks.dense.DenseWorkspace` calls them; the last two after `up`.
Calls = tuple[Prepared, Prepared | None, Prepared | None]


@base("operation")
class Operation(ABC):
    """sigma*(w, a).

    Attributes:
        linear: whether it is linear in w, so that the mean of the initial law says all at n = infinity.
        held: arrays of the size of W_l that a workspace holds, in forward passes and in steps, to plan its memory.
    """

    linear: ClassVar[bool] = False
    held: ClassVar[tuple[int, int]] = (0, 0)

    @abstractmethod
    def connect(self, c: Connection) -> Calls:
        """The calls of one layer.

        Returns:
            Three functions of a scale alpha. ``up`` writes b + alpha sum_i p_i sum_q omega_q sigma*(W, a) into h, where
            p_i is the weight of a neuron in p_{l-1}, whose scale is part of alpha. ``down`` writes
            alpha sum_j p_j D_j sum_q omega_q d2 sigma*(W, a) into ``bracket``; None without one. ``move`` adds alpha
            times the sum over the batch of D d1 sigma*(W, a) to W; None likewise.
        """


@register("operation", "product")
@dataclass
class Product(Operation):
    """w a, the paper's networks."""

    linear = True

    def connect(self, c: Connection) -> Calls:
        prepare = c.products.prepare
        up = prepare(c.h, c.W, c.pa, c.b)
        if c.D is None or c.pD is None or c.bracket is None:
            return up, None, None
        return up, prepare(c.bracket, c.W.mT, c.pD), prepare(c.W, c.D, c.a.mT, c.W)


def _activation(name: str, key: str) -> Activation:
    """The scalar function of a component's key.

    Raises:
        ConfigError: no activation.
    """
    found = find("activation", name, key)
    if not (isinstance(found, type) and issubclass(found, Activation)):
        raise ConfigError(key, name, "is no subclass of mfrun.networks.activations.Activation")
    return found()


@register("operation", "separable")
@dataclass
class Separable(Operation):
    """u(w) a: matrix products of u(W_l), which is computed once a step.

    u(w) v(h) is this operation with ``activation=v``.

    Attributes:
        u: name of an activation, or ``package.module:Class`` of the user's own.
    """

    held = (1, 2)

    u: str = "tanh"

    def __post_init__(self) -> None:
        self._u = _activation(self.u, "u")

    def connect(self, c: Connection) -> Calls:
        u, W, nodes = self._u, c.W, 1 if c.omega is None else c.omega.shape[-1]
        uW = torch.empty_like(W)
        # The conditional mean of u(w), given the two types.
        mean = uW if c.omega is None else W.new_empty((*W.shape[:-1], W.shape[-1] // nodes))
        product = c.products.prepare(c.h, mean, c.pa, c.b)

        def up(alpha: float) -> None:
            u.forward(W, out=uW)
            if c.omega is not None:
                torch.sum(uW.view(*mean.shape, nodes) * c.omega[..., None, None, :], -1, out=mean)
            product(alpha)

        if c.D is None or c.pD is None or c.bracket is None:
            return up, None, None
        outer = torch.empty_like(mean)
        by_u = c.products.prepare(outer, c.D, c.a.mT)

        def move(alpha: float) -> None:
            by_u(alpha)
            change = outer if nodes == 1 else outer.repeat_interleave(nodes, -1)
            u.backward(change, W, uW, out=change)
            W.add_(change)

        return up, c.products.prepare(c.bracket, mean.mT, c.pD), move


class Pointwise(Operation):
    """Any sigma*(w, a), in blocks of bounded memory; a step costs n_l n_{l-1} evaluations for each sample.

    ``value`` is enough; a class that knows its derivatives overrides ``pull``.
    """

    held = (0, 1)

    @abstractmethod
    def value(self, w: Tensor, a: Tensor) -> Tensor:
        """sigma*(w, a), entry by entry, of w (J, I, 1) and a (I, B): (J, I, B)."""

    def pull(self, g: Tensor, w: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """g d1 sigma*(w, a) and g d2 sigma*(w, a), (J, I, B) each, for g (J, 1, B)."""
        shape = (*w.shape[:2], a.shape[-1])
        by_w, by_a = torch.func.vjp(self.value, w.expand(shape), a.expand(shape))[1](g.expand(shape))
        return by_w, by_a

    def connect(self, c: Connection) -> Calls:
        members = c.members()
        layers = [_Blocks(self, one) for one in members]
        ups = [layer.up for layer in layers]
        if c.D is None:
            return _each(ups), None, None
        return _each(ups), _each([layer.down for layer in layers]), _each([layer.move for layer in layers])


@checks("operation")
def refuse_wrong_operation(operation: Operation, name: str) -> None:
    """Try a class of the user's own that acts entry by entry, and hold its derivatives to differences of its values.

    Raises:
        ConfigError: it fails, or they differ.
    """
    if isinstance(operation, Pointwise):
        random = torch.Generator().manual_seed(0)
        w, a = (torch.randn(shape, generator=random, dtype=torch.float64) for shape in ((3, 2, 1), (2, 4)))
        refuse_wrong_derivatives("operation.name", name, operation.value, operation.pull, (w, a), (3, 1, 4))


def _each(calls: Sequence[Prepared]) -> Prepared:
    def every(alpha: float) -> None:
        for call in calls:
            call(alpha)

    return calls[0] if len(calls) == 1 else every


class _Blocks:
    """The calls of one layer of one network."""

    def __init__(self, operation: Pointwise, c: Connection) -> None:
        self.operation, self.c = operation, c
        self.nodes = 1 if c.omega is None else len(c.omega)
        # Of the lower neurons, each of them there once for each node: (n_{l-1} Q, 1).
        below, self.above = (None if m.weights is None else m.weights[0] for m in c.p)
        self.weights = below if below is None else below.repeat_interleave(self.nodes, 0)
        if c.omega is not None:
            nodes = c.omega.repeat(len(c.a)).unsqueeze(1)
            self.weights = nodes if self.weights is None else nodes * self.weights
        self.change = torch.empty_like(c.W if c.D is not None else c.W[:0])

    def _walk(self, samples: int) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of W_l, block by block."""
        rows, columns = self.c.W.shape
        width = max(1, min(columns, BLOCK[self.c.W.device.type] // samples))
        height = max(1, BLOCK[self.c.W.device.type] // (samples * width))
        for j in range(0, rows, height):
            for i in range(0, columns, width):
                yield slice(j, j + height), slice(i, i + width)

    def _below(self) -> Tensor:
        """a_{l-1} for each lower neuron and node, (n_{l-1} Q, B)."""
        return self.c.a if self.nodes == 1 else self.c.a.repeat_interleave(self.nodes, 0)

    def up(self, alpha: float) -> None:
        c, a = self.c, self._below()
        c.h.zero_()
        for rows, columns in self._walk(a.shape[-1]):
            values = self.operation.value(c.W[rows, columns, None], a[columns])
            c.h[rows] += (values if self.weights is None else values * self.weights[columns]).sum(1)
        c.h.mul_(alpha)
        if c.b is not None:
            c.h.add_(c.b)

    def down(self, alpha: float) -> None:
        """Both derivatives in one pass; :meth:`move` then needs none."""
        c, a = self.c, self._below()
        assert c.D is not None
        assert c.bracket is not None
        back = torch.zeros_like(a)
        for rows, columns in self._walk(a.shape[-1]):
            by_w, by_a = self.operation.pull(c.D[rows, None], c.W[rows, columns, None], a[columns])
            torch.sum(by_w, -1, out=self.change[rows, columns])
            back[columns] += (by_a if self.above is None else by_a * self.above[rows, None]).sum(0)
        if c.omega is not None:
            back = (back.view(-1, self.nodes, back.shape[-1]) * c.omega.unsqueeze(-1)).sum(1)
        torch.mul(back, alpha, out=c.bracket)

    def move(self, alpha: float) -> None:
        self.c.W.add_(self.change, alpha=alpha)


@dataclass
class _Composed(Pointwise):
    """f of a sum or a product.

    Attributes:
        f: name of an activation, or ``package.module:Class`` of the user's own.
    """

    f: str = "relu"

    def __post_init__(self) -> None:
        self._f = _activation(self.f, "f")

    def _value(self, s: Tensor) -> Tensor:
        self._f.forward(s, out=(out := torch.empty_like(s)))
        return out

    def _pull(self, g: Tensor, s: Tensor) -> Tensor:
        by_s = torch.empty_like(s).copy_(g)
        self._f.backward(by_s, s, self._value(s), out=by_s)
        return by_s


@register("operation", "of_sum")
@dataclass
class OfSum(_Composed):
    """f(w + a)."""

    def value(self, w: Tensor, a: Tensor) -> Tensor:
        return self._value(w + a)

    def pull(self, g: Tensor, w: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        by_s = self._pull(g, w + a)
        return by_s, by_s


@register("operation", "of_product")
@dataclass
class OfProduct(_Composed):
    """f(w a)."""

    f: str = "tanh"

    def value(self, w: Tensor, a: Tensor) -> Tensor:
        return self._value(w * a)

    def pull(self, g: Tensor, w: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        by_s = self._pull(g, w * a)
        return by_s * a, by_s * w


@register("operation", "function")
@dataclass
class Function(Pointwise):
    """The user's own sigma*, a Python function of arrays (w, a) that broadcast; derivatives are taken by torch.func.

    Attributes:
        function: ``package.module:name``.
    """

    function: str = ""

    def __post_init__(self) -> None:
        self._function: Callable[[Tensor, Tensor], Tensor] = imported(self.function, "function")
        g = torch.Generator().manual_seed(0)
        w, a = (torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((3, 1), (3, 4)))
        refuse_unless_entrywise("function", self.function, self._function, (w, a))

    def value(self, w: Tensor, a: Tensor) -> Tensor:
        return self._function(w, a)
