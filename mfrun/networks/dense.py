"""Fully-connected networks under the mean field scaling: Eq. (38) and Section 3.1 of the paper.

With L hidden layers, the measures p_l of their neurons, p_0 = p_{L+1} = 1 and a_0 = x, every layer reads

    h_l = b_l + W_l (p_{l-1} * a_{l-1}),    a_l = sigma(h_l),    l = 1 .. L,
    yhat = b_{L+1} + W_{L+1} (p_L * a_L),   the rows of W_{L+1} being the output weights beta,

and the scaled backward pass with the SGD update, for D_{L+1} = dL/dyhat,

    D_{l-1} = [W_l^T (p_l * D_l)] * sigma'(h_{l-1})
    W_l <- W_l - rate_l D_l a_{l-1}^T,      b_l <- b_l - rate_l D_l 1.

For p_l = 1/n_l this is Section 3.1: autograd's gradient of W_l times n_l n_{l-1} (W_1: n_1; beta: n_L; b_l: n_l).
Biases are part of the pre-activation here, sigma_l(theta, h) = sigma(h + theta) in the paper. Its theta_3 of Eq. (38),
one number for each neuron of layer L, enters only by its average; b_{L+1} is that average.

Several networks that see the same batches train side by side: S replicates of a finite network, or the S independent
particle sets of the n = infinity network. Arrays are (S, neurons, batch), the paper's column vectors side by side.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mfrun.networks.activations import Activation
from mfrun.networks.measures import Measure
from mfrun.networks.network import Network


class Workspace:
    """Pre-activations h_l, activations a_l and backward signals D_l for one batch size.

    Attributes:
        h: L + 1 arrays (S, n_l, B), or (n_l, B) when S = 1; the last one is yhat.
        a: L arrays sigma(h_l).
        D: L arrays dL/dyhat-weighted backward signals; empty when made for forward passes only.
    """

    def __init__(self, network: Dense, batch: int, backward: bool = True) -> None:
        like = network.W[0]

        def empty(neurons: int) -> Tensor:
            shape = (network.replicates, neurons, batch) if network.replicates > 1 else (neurons, batch)
            return torch.empty(shape, dtype=like.dtype, device=like.device)

        self.h = [empty(k) for k in (*network.widths, network.n_out)]
        self.a = [empty(k) for k in network.widths]
        self.D = [empty(k) for k in network.widths] if backward else []
        self.ones = torch.ones((batch, 1), dtype=like.dtype, device=like.device)
        if network.replicates > 1:
            self.ones = self.ones.expand(network.replicates, batch, 1)


class Dense(Network):
    """S dense networks of one shape.

    Args:
        W: the L + 1 weight arrays W_1 (S, n_1, d), W_l (S, n_l, n_{l-1}), W_{L+1} = beta (S, n_out, n_L); contiguous,
            updated in place.
        b: the L + 1 bias arrays (S, n_l, 1), or None for a network without biases (Section 2.1).
        p: the L measures of the hidden layers.
        activation: sigma.
    """

    def __init__(self, W: list[Tensor], b: list[Tensor] | None, p: list[Measure], activation: Activation) -> None:
        if len(W) != len(p) + 1 or (b is not None and len(b) != len(W)):
            raise ValueError(f"{len(W)} weight arrays need {len(W) - 1} measures and {len(W)} biases")
        self.W, self.b, self.activation = W, b, activation
        self.p = [Measure.counting(), *p, Measure.counting()]
        self.replicates = W[0].shape[0]
        self.widths = [w.shape[1] for w in W[:-1]]
        self.d, self.n_out = W[0].shape[2], W[-1].shape[1]
        # One network runs through the plain matrix products, which cost less per call than the batched ones.
        self._batched = self.replicates > 1
        self._addmm = torch.baddbmm if self._batched else torch.addmm
        self._W = list(W) if self._batched else [w[0] for w in W]
        self._b = None if b is None else list(b) if self._batched else [v[0] for v in b]
        # Views that the loop needs at every step.
        self._WT = [w.mT for w in self._W]
        self._W1_rows = W[0].view(-1, self.d)
        self._b1_rows = None if b is None else b[0].view(-1, 1)

    def state(self) -> dict[str, Tensor]:
        """The trained arrays by name: ``W1``, ``b1``, ... They are the network's own memory, not copies."""
        named = {f"W{i}": w for i, w in enumerate(self.W, 1)}
        if self.b is not None:
            named |= {f"b{i}": v for i, v in enumerate(self.b, 1)}
        return named

    def workspace(self, batch: int, backward: bool = True) -> Workspace:
        return Workspace(self, batch, backward)

    def nonpositive(self, ws: Workspace) -> list[Tensor]:
        hidden = zip(self.widths, self.p[1:], ws.h, strict=False)
        return [p.mean((h.view(self.replicates, n, -1) <= 0).to(h.dtype)).sum(-1) for n, p, h in hidden]

    def forward(self, x: Tensor, ws: Workspace) -> Tensor:
        """Forward pass, Eq. (38).

        Args:
            x: inputs (B, d), the same for every replicate, or (S, B, d).
            ws: made for batch size B.

        Returns:
            yhat, (S, n_out, B), or (n_out, B) when S = 1; it lives in ``ws``.
        """
        self._first(x, ws.h[0])
        for l in range(1, len(self._W)):
            self.activation.forward(ws.h[l - 1], out=ws.a[l - 1])
            p = self.p[l]
            below = ws.a[l - 1] if p.weights is None else p.weigh(ws.a[l - 1])
            if self._b is None:
                self._addmm(ws.h[l], self._W[l], below, beta=0, alpha=p.scale, out=ws.h[l])
            else:
                self._addmm(self._b[l], self._W[l], below, alpha=p.scale, out=ws.h[l])
        return ws.h[-1]

    def descend(self, x: Tensor, D: Tensor, rates: list[float], ws: Workspace) -> None:
        """Scaled backward pass and SGD update (Section 3.1), layer by layer from the top.

        Args:
            x: the inputs of the forward pass that filled ``ws``.
            D: dL/dyhat for each sample, shaped like yhat.
            rates: the L + 1 numbers alpha xi_l(t) / B (the mean over the batch).
            ws: as the forward pass left it.
        """
        for l in range(len(self._W) - 1, -1, -1):
            if l > 0:
                p, bracket = self.p[l + 1], ws.D[l - 1]
                above = D if p.weights is None else p.weigh(D)
                self._addmm(bracket, self._WT[l], above, beta=0, alpha=p.scale, out=bracket)
                # W_l has told the layer below what it needs; it may move.
                self._addmm(self._W[l], D, ws.a[l - 1].mT, alpha=-rates[l], out=self._W[l])
            else:
                self._move_first(x, D, rates[0])
            if self._b is not None:
                self._addmm(self._b[l], D, ws.ones, alpha=-rates[l], out=self._b[l])
            if l > 0:
                self.activation.backward(bracket, ws.h[l - 1], ws.a[l - 1], out=bracket)
                D = bracket

    def _first(self, x: Tensor, h: Tensor) -> None:
        """h_1 = W_1 x + b_1; replicates that share x are one tall matrix."""
        if x.dim() == 3:
            if self.b is None:
                torch.bmm(self.W[0], x.mT, out=h)
            else:
                torch.baddbmm(self.b[0], self.W[0], x.mT, out=h)
            return
        h = h.view(-1, h.shape[-1])
        if self._b1_rows is None:
            torch.mm(self._W1_rows, x.T, out=h)
        else:
            torch.addmm(self._b1_rows, self._W1_rows, x.T, out=h)

    def _move_first(self, x: Tensor, D: Tensor, rate: float) -> None:
        """W_1 <- W_1 - rate D_1 x^T."""
        if x.dim() == 3:
            torch.baddbmm(self._W[0], D, x, alpha=-rate, out=self._W[0])
        else:
            torch.addmm(self._W1_rows, D.view(-1, D.shape[-1]), x, alpha=-rate, out=self._W1_rows)
