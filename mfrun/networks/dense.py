"""Fully-connected networks under the mean field scaling: Eq. (38) and Section 3.1 of the paper.

With L hidden layers, the measures p_l of their neurons, p_0 = p_{L+1} = 1 and a_0 = x, every layer reads

    h_l = b_l + W_l (p_{l-1} * a_{l-1}),    a_l = sigma(h_l),    l = 1 .. L,
    yhat = b_{L+1} + W_{L+1} (p_L * a_L),   the rows of W_{L+1} being the output weights beta,

and the scaled backward pass with the SGD update, for D_{L+1} = dL/dyhat,

    D_{l-1} = [W_l^T (p_l * D_l)] * sigma'(h_{l-1})
    W_l <- W_l - rate_l D_l a_{l-1}^T,      b_l <- b_l - rate_l D_l 1.

For p_l = 1/n_l this is Section 3.1: autograd's gradient of W_l times n_l n_{l-1} (W_1: n_1; beta: n_L; b_l: n_l).
Biases are part of the pre-activation here, sigma_l(theta, h) = sigma(h + theta) in the paper. Its theta_3 of Eq. (38),
one number for each neuron of layer L, enters only by its average; b_{L+1} is that average. Other neurons take the place
of sigma (:mod:`mfrun.networks.neurons`), other local operations that of the products W_l a_{l-1} of layers 2 .. L
(:mod:`mfrun.networks.operations`).

Several networks that see the same batches train side by side: S replicates of a finite network, or the S independent
particle sets of the n = infinity network. Arrays are (S, neurons, batch), the paper's column vectors side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mfrun.networks.activations import Activation
from mfrun.networks.measures import Measure
from mfrun.networks.network import Network
from mfrun.networks.neurons import Trained
from mfrun.networks.operations import Connection, Operation, Product
from mfrun.networks.products import Products


class DenseWorkspace:
    """Memory for one batch size, and the matrix products that run in it, ready to be called.

    Attributes:
        h: L + 1 arrays (S, n_l, B), or (n_l, B) when S = 1; the last one is yhat.
        a: L arrays sigma(h_l).
        pa: the same times the weights of p_l; where there are none, the very arrays of ``a``.
        D: L + 1 backward signals D_l; empty when made for forward passes only.
        pD: the same times the weights of p_l.
        up: calls that write h_{l+1} from a_l, given the scale of p_l.
        down: calls that write the bracket of D_l from D_{l+1}, given the scale of p_{l+1}.
        move: calls that add a multiple of D_l a_{l-1}^T (or what the operation has there) to W_l, for l >= 2.
        shift: calls that add a multiple of D_l 1 to b_l.
    """

    def __init__(self, network: Dense, batch: int, backward: bool = True) -> None:
        like, S, L = network.W[0], network.replicates, len(network.widths)
        p, prepare, omega = network.p, network.products.prepare, network.omega

        def empty(neurons: int) -> Tensor:
            return torch.empty((S, neurons, batch)[S == 1 :], dtype=like.dtype, device=like.device)

        def member(arrays: list[Tensor]) -> list[Tensor]:
            # One network runs through plain matrix products, which cost less per call than the batched ones.
            return [array[0] for array in arrays] if S == 1 else arrays

        def weighed(array: Tensor, weights: Tensor | None) -> Tensor:
            return array if weights is None else torch.empty_like(array)

        W, b = member(network.W), member(network.b or [])
        self.h = [empty(k) for k in (*network.widths, network.n_out)]
        self.a = [empty(k) for k in network.widths]
        self.pa = [weighed(a, p[l].weights) for l, a in enumerate(self.a, 1)]
        self.D = [empty(k) for k in (*network.widths, network.n_out)] if backward else []
        self.pD = [weighed(D, p[l].weights) for l, D in enumerate(self.D, 1)]
        calls = []
        for l in range(1, L + 1):
            # The output weights beta are a part of theta_L, and no operation's.
            operation = network.operation if l < L else Product()
            nodes = None if omega is None or l == L else omega if S > 1 else omega[0]
            both, here = (p[l], p[l + 1]), (self.a[l - 1], self.pa[l - 1], self.h[l])
            joined = Connection(network.products, W[l], b[l] if b else None, nodes, both, *here)
            if backward:
                joined = replace(joined, D=self.D[l], pD=self.pD[l], bracket=self.D[l - 1])
            calls.append(operation.connect(joined))
        self.up, self.down, self.move = zip(*calls, strict=True)
        if backward:
            ones = torch.ones((S, batch, 1)[S == 1 :], dtype=like.dtype, device=like.device)
            self.shift = [prepare(v, D, ones, v) for v, D in zip(b, self.D, strict=False)]


class Dense(Network[DenseWorkspace]):
    """S dense networks of one shape.

    Args:
        W: the L + 1 weight arrays W_1 (S, n_1, d), W_l (S, n_l, n_{l-1}), W_{L+1} = beta (S, n_out, n_L); contiguous,
            updated in place.
        b: the L + 1 bias arrays (S, n_l, 1), or None for a network without biases (Section 2.1).
        p: the L measures of the hidden layers.
        activation: sigma.
        trained: what the L hidden layers have in the place of sigma where their neuron is another one than
            sigma(h + b): each sigma_l(theta_l, .) with its own theta_l (S, n_l, q), updated in place.
        operation: sigma*(w, a) of W_2 .. W_L; at n = infinity these have Q columns for each neuron below.
        omega: the probabilities (S, Q) of those columns, None where Q = 1.
    """

    def __init__(
        self,
        W: list[Tensor],
        b: list[Tensor] | None,
        p: list[Measure],
        activation: Activation,
        *,
        trained: Sequence[Trained] | None = None,
        operation: Operation | None = None,
        omega: Tensor | None = None,
    ) -> None:
        if len(W) != len(p) + 1 or (b is not None and len(b) != len(W)):
            raise ValueError(f"{len(W)} weight arrays need {len(W) - 1} measures and {len(W)} biases")
        if trained is not None and len(trained) != len(p):
            raise ValueError(f"{len(p)} hidden layers need as many neurons with a theta, not {len(trained)}")
        self.W, self.b, self.activation, self.products = W, b, activation, Products()
        self.operation, self.omega = operation or Product(), omega
        self.trained = list(trained or [])
        # What layer l makes of its pre-activations.
        self.sigma: Sequence[Activation] = self.trained or [activation] * len(p)
        self.p = [Measure.counting(), *p, Measure.counting()]
        self.replicates = W[0].shape[0]
        self.widths = [w.shape[1] for w in W[:-1]]
        self.d, self.n_out = W[0].shape[2], W[-1].shape[1]
        # Replicates that share their inputs see them through one tall matrix.
        self._W1 = W[0].view(-1, self.d)
        self._b1 = None if b is None else b[0].view(-1, 1)

    def state(self) -> dict[str, Tensor]:
        """The trained arrays by name: ``W1``, ``b1``, ... They are the network's own memory, not copies."""
        named = {f"W{i}": w for i, w in enumerate(self.W, 1)}
        if self.b is not None:
            named |= {f"b{i}": v for i, v in enumerate(self.b, 1)}
        return named | {f"theta{i}": sigma.theta for i, sigma in enumerate(self.trained, 1)}

    def member(self, s: int) -> Dense:
        """One of the S networks; it shares this one's memory."""
        b = None if self.b is None else [v[s : s + 1] for v in self.b]
        p = [m.member(s) for m in self.p[1:-1]]
        one = Dense(
            [w[s : s + 1] for w in self.W],
            b,
            p,
            self.activation,
            trained=[sigma.member(s) for sigma in self.trained] or None,
            operation=self.operation,
            omega=None if self.omega is None else self.omega[s : s + 1],
        )
        one.products = self.products
        return one

    def workspace(self, batch: int, backward: bool = True) -> DenseWorkspace:
        return DenseWorkspace(self, batch, backward)

    def workspace_bytes(self, batch: int, backward: bool = True) -> int:
        weighed = sum(k for k, p in zip(self.widths, self.p[1:], strict=False) if p.weights is not None)
        more = self.replicates * batch * weighed * (1 + backward) * self.W[0].itemsize
        more += self.operation.held[backward] * sum(w.nbytes for w in self.W[1:-1])
        return super().workspace_bytes(batch, backward) + more

    def nonpositive(self, ws: DenseWorkspace) -> list[Tensor]:
        shares = []
        for l, (n, h) in enumerate(zip(self.widths, ws.h, strict=False)):
            # The comparison writes numbers that sum fast; after a forward pass alone, a_l is free to hold them.
            where = torch.le(h, 0, out=torch.empty_like(h) if ws.D else ws.a[l])
            shares.append(self.p[l + 1].mean(where.sum(-1).view(self.replicates, n, 1)).squeeze(-1))
        return shares

    def forward(self, x: Tensor, ws: DenseWorkspace) -> Tensor:
        """Forward pass, Eq. (38).

        Args:
            x: inputs (B, d), the same for every replicate, or (S, B, d).
            ws: made for batch size B.

        Returns:
            yhat, (S, n_out, B), or (n_out, B) when S = 1; it lives in ``ws``.
        """
        self.first(x, ws.h[0])
        for l, up in enumerate(ws.up):
            self.sigma[l].forward(ws.h[l], out=ws.a[l])
            self.p[l + 1].weigh(ws.a[l], out=ws.pa[l])
            up(self.p[l + 1].scale)
        return ws.h[-1]

    def descend(self, x: Tensor, D: Tensor, rates: list[float], ws: DenseWorkspace) -> None:
        """Scaled backward pass and SGD update (Section 3.1), layer by layer from the top.

        Args:
            x: the inputs of the forward pass that filled ``ws``.
            D: dL/dyhat for each sample, shaped like yhat.
            rates: the L + 1 numbers alpha xi_l(t) / B (the mean over the batch).
            ws: as the forward pass left it.
        """
        ws.D[-1].copy_(D)
        for l in range(len(self.widths), 0, -1):
            self.p[l + 1].weigh(ws.D[l], out=ws.pD[l])
            ws.down[l - 1](self.p[l + 1].scale)
            # W_{l+1} has told the layer below what it needs; it may move.
            ws.move[l - 1](-rates[l])
            self.sigma[l - 1].backward(ws.D[l - 1], ws.h[l - 1], ws.a[l - 1], out=ws.D[l - 1])
        self.move_first(x, ws.D[0], -rates[0])
        for shift, rate in zip(ws.shift, rates, strict=False):
            shift(-rate)
        for sigma, rate in zip(self.trained, rates, strict=False):
            sigma.move(-rate)

    def first(self, x: Tensor, h: Tensor) -> None:
        """Write h_1 = W_1 x + b_1 into ``h``."""
        if x.dim() == 3:
            self.products.multiply(h, self.W[0], x.mT, 1.0, None if self.b is None else self.b[0])
        else:
            self.products.multiply(h.view(-1, h.shape[-1]), self._W1, x.T, 1.0, self._b1)

    def move_first(self, x: Tensor, D: Tensor, alpha: float) -> None:
        """W_1 <- W_1 + alpha D_1 x^T."""
        if x.dim() == 3:
            self.products.multiply(self.W[0], D, x, alpha, self.W[0])
        else:
            self.products.multiply(self._W1, D.view(-1, D.shape[-1]), x, alpha, self._W1)
