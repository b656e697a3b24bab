"""Convolutional networks under the mean field scaling: Appendix C and Table 1 of the paper.

A layer's neurons are its filters, W_l[j, i] is a kernel of k_l x k_l weights, and * below is the convolution with the
layer's stride and padding. With the measures p_l of the filters, p_0 = p_{L+1} = 1 and a_0 the image, every layer reads

    h_l = b_l + (1 / c_l) sum_i p_{l-1,i} W_l[., i] * a_{l-1,i},    a_l = pool_l(sigma(h_l)),    l = 1 .. L.

The output is the same with a kernel that covers the whole of the image that is left, W_{L+1} = beta of Appendix C. The
scaled backward pass and the SGD update are those of Section 3.1, for D_{L+1} = dL/dyhat:

    D_{l-1} = pool_{l-1}^T [(1 / c_l) sum_j p_{l,j} W_l[j, .] *^T D_{l,j}] sigma'(h_{l-1})
    W_l[j, i] <- W_l[j, i] - rate_l sum_s D_l,j(s) a_{l-1,i}(patch at s)
    b_l,j <- b_l,j - rate_l sum_s D_l,j(s)

with sums over the positions s of the output, since one weight serves them all, and pool^T handing each value to where
the maximum was. For p_l = 1/n_l this is autograd's gradient of W_l times n_l n_{l-1} c_l (W_1: n_1; beta: n_L c_{L+1};
b_l: n_l; b_{L+1}: 1). c_l is the part of the normalisation that is not a width, see ``normalise`` in
:mod:`mfrun.networks.cnn`; c_1 = 1, since the first layer's sum is over the input and is not normalised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mfrun.errors import ConfigError
from mfrun.networks.activations import Activation
from mfrun.networks.measures import Measure
from mfrun.networks.network import Image, Network
from mfrun.networks.products import Products

# Images that go through the layers together where no backward pass follows: bounds the memory of an evaluation.
SLICE = 100

_conv_backward = torch.ops.aten.convolution_backward
_max_pool = torch.ops.aten.max_pool2d_with_indices
_max_pool_backward = torch.ops.aten.max_pool2d_with_indices_backward


@dataclass
class Convolution:
    """One entry of ``architecture.layers``: convolution, activation, max-pooling. All are square.

    Attributes:
        ratio: n_l / n.
        kernel: side of the receptive field, in pixels.
        stride: of the convolution.
        padding: zeros added on every side; None for kernel // 2, which keeps the size of the image at stride 1
            where the kernel is odd.
        pool: side of the region of which the maximum is taken; 1 for no pooling.
        pool_stride: of the pooling; None for ``pool``.
        pool_padding: pixels added on every side, which are never the maximum.
    """

    ratio: float = 1.0
    kernel: int = 3
    stride: int = 1
    padding: int | None = None
    pool: int = 1
    pool_stride: int | None = None
    pool_padding: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.ratio) and self.ratio > 0):
            raise ConfigError("ratio", self.ratio, "n_l / n must be positive")
        for key in ("kernel", "stride", "pool", "pool_stride"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(key, value, "must be at least 1 pixel")
        if not 0 <= self.pad < self.kernel:
            raise ConfigError("padding", self.padding, f"0 to {self.kernel - 1} pixels at kernel={self.kernel}")
        if not 0 <= self.pool_padding <= self.pool // 2:
            raise ConfigError("pool_padding", self.pool_padding, f"0 to {self.pool // 2} pixels at pool={self.pool}")

    @property
    def pad(self) -> int:
        """Zeros on every side."""
        return self.kernel // 2 if self.padding is None else self.padding

    @property
    def pooling(self) -> tuple[list[int], list[int], list[int]]:
        """Kernel, stride and padding of the pooling, as torch takes them."""
        stride = self.pool if self.pool_stride is None else self.pool_stride
        return [self.pool] * 2, [stride] * 2, [self.pool_padding] * 2

    @property
    def pools(self) -> bool:
        """Whether there is a pooling at all."""
        return self.pool > 1 or (self.pool_stride or 1) > 1

    def convolved(self, side: int) -> int:
        """Side of h_l for an image of that side."""
        return (side + 2 * self.pad - self.kernel) // self.stride + 1

    def size(self, side: int) -> int:
        """Side of the layer's output for an image of that side; below 1 where nothing is left."""
        side = self.convolved(side)
        (pool,), (stride,), (padding,) = ([v[0]] for v in self.pooling)
        return (side + 2 * padding - pool) // stride + 1 if side > 0 and self.pools else side


class _Trace(NamedTuple):
    """What the backward pass needs of one layer of one network."""

    h: Tensor  # (B, n_l, height, width)
    z: Tensor  # sigma(h)
    where: Tensor | None  # the indices of the maxima in z, where there is a pooling
    a: Tensor  # z pooled, the input of layer l + 1


class ConvWorkspace:
    """What one pass through the layers leaves behind.

    Attributes:
        yhat: (S, n_out, B).
        traces: the layers of each network; empty when made for forward passes only.
        nonpositive: (S, L), see :meth:`Conv.nonpositive`; kept up to date in forward passes only.
    """

    def __init__(self, network: Conv, batch: int, backward: bool) -> None:
        like = network.W[0]
        S, L = network.replicates, len(network.widths)
        self.backward, self.step = backward, batch if backward else SLICE
        self.yhat = torch.empty((S, network.n_out, batch), dtype=like.dtype, device=like.device)
        self.traces: list[list[_Trace]] = [[] for _ in range(S)]
        self.nonpositive = torch.zeros((S, L), dtype=torch.float64, device=like.device)

    @property
    def h(self) -> list[Tensor]:
        """h_1 .. h_L, (S, n_l, height, width, B)."""
        return [torch.stack([here.h for here in layer]).movedim(1, -1) for layer in zip(*self.traces, strict=True)]

    @property
    def a(self) -> list[Tensor]:
        """a_1 .. a_L, pooled."""
        return [torch.stack([here.a for here in layer]).movedim(1, -1) for layer in zip(*self.traces, strict=True)]


class Conv(Network[ConvWorkspace]):
    """S convolutional networks of one shape.

    They run one after the other, which measures as fast as grouped convolutions, and needs the memory of one at a time
    in an evaluation. Images are kept with their channels last in memory, as they come from the data.

    Args:
        W: the L + 1 weight arrays W_l (S, n_l, n_{l-1}, k_l, k_l), the last one (S, n_out, n_L, height, width);
            updated in place.
        b: the L + 1 bias arrays (S, n_l), or None.
        p: the L measures of the hidden layers.
        activation: sigma.
        layers: stride, padding and pooling of the L convolutions.
        c: c_1 .. c_{L+1}.
        image: height, width and channels of the input.
    """

    def __init__(
        self,
        W: list[Tensor],
        b: list[Tensor] | None,
        p: list[Measure],
        activation: Activation,
        layers: list[Convolution],
        c: list[int],
        image: Image,
    ) -> None:
        self.W, self.b, self.activation, self.layers, self.image = W, b, activation, layers, image
        self.products = Products()
        self.p = [Measure.counting(), *p, Measure.counting()]
        self.replicates = W[0].shape[0]
        self.widths = [w.shape[1] for w in W[:-1]]
        self.d, self.n_out = math.prod(image), W[-1].shape[1]
        # p_{l-1} / c_l beside the columns of W_l, and p_l / c_l beside its rows.
        self._columns = [self._factors(p, c[l], (1, -1, 1, 1)) for l, p in enumerate(self.p[:-1])]
        self._rows = [self._factors(p, c[l], (-1, 1, 1, 1)) for l, p in enumerate(self.p[1:])]

    def _factors(self, p: Measure, c: int, shape: tuple[int, ...]) -> list[float | Tensor]:
        """p / c for each network."""
        if p.weights is None:
            return [p.scale / c] * self.replicates
        weights = p.weights.expand(self.replicates, -1, 1)
        return [w.view(shape) * (p.scale / c) for w in weights]

    def state(self) -> dict[str, Tensor]:
        named = {f"W{i}": w for i, w in enumerate(self.W, 1)}
        if self.b is not None:
            named |= {f"b{i}": v for i, v in enumerate(self.b, 1)}
        return named

    def workspace(self, batch: int, backward: bool = True) -> ConvWorkspace:
        return ConvWorkspace(self, batch, backward)

    def workspace_bytes(self, batch: int, backward: bool = True) -> int:
        """h, sigma(h) and, where layers pool, the maxima and their places (8 bytes each), of one network at a time
        where no backward pass follows; for the backward pass its signal at the largest layer, twice; and the weights
        of the largest layer once more, times p / c, and in the backward pass their gradient."""
        # Layers that end in no pooling hand sigma(h) on as it is.
        side, numbers, places, largest = self.image[:2], 0, 0, 0
        for layer, n in zip(self.layers, self.widths, strict=True):
            before = math.prod(layer.convolved(k) for k in side)
            side = (layer.size(side[0]), layer.size(side[1]))
            after = math.prod(side) if layer.pools else 0
            numbers, places = numbers + n * (2 * before + after), places + n * after
            largest = max(largest, n * before)
        samples = batch * self.replicates if backward else min(batch, SLICE)
        held = numbers + (2 * largest if backward else 0)
        yhat = self.replicates * self.n_out * batch * self.W[0].itemsize
        copies = (1 + backward) * max(w[0].nbytes for w in self.W)
        return samples * (held * self.W[0].itemsize + 8 * places) + yhat + copies

    def forward(self, x: Tensor, ws: ConvWorkspace) -> Tensor:
        B = ws.yhat.shape[2]
        ws.nonpositive.zero_()
        for s in range(self.replicates):
            for i in range(0, B, ws.step):
                some = slice(i, i + ws.step)
                trace = self._forward(self._images(x, s)[some], s, ws.yhat[s, :, some])
                if ws.backward:
                    ws.traces[s] = trace
                else:
                    ws.nonpositive[s] += self._nonpositive(trace, s)
        return ws.yhat if self.replicates > 1 else ws.yhat[0]

    def descend(self, x: Tensor, D: Tensor, rates: list[float], ws: ConvWorkspace) -> None:
        for s, D_s in enumerate(D.view(ws.yhat.shape)):
            self._descend(self._images(x, s), D_s, rates, ws.traces[s], s)

    def nonpositive(self, ws: ConvWorkspace) -> list[Tensor]:
        if ws.backward:
            return list(torch.stack([self._nonpositive(trace, s) for s, trace in enumerate(ws.traces)], 1))
        return list(ws.nonpositive.T)

    def _images(self, x: Tensor, s: int) -> Tensor:
        """Network s's inputs (B, d) as (B, channels, height, width), without moving them."""
        return as_images(x if x.dim() == 2 else x[s], self.image)

    def _forward(self, a: Tensor, s: int, yhat: Tensor) -> list[_Trace]:
        """Network s; ``yhat`` (n_out, B) is written to."""
        trace = []
        for l, layer in enumerate(self.layers):
            W = self.W[l][s] if l == 0 else self.W[l][s] * self._columns[l][s]
            h = torch.conv2d(a, W, self._bias(l, s), layer.stride, layer.pad)
            z = torch.empty_like(h)
            self.activation.forward(h, out=z)
            a, where = _max_pool(z, *layer.pooling) if layer.pools else (z, None)
            trace.append(_Trace(h, z, where, a))
        beta = _rows(self.W[-1][s] * self._columns[-1][s])
        torch.mm(beta, _rows(a).T, out=yhat)
        if self.b is not None:
            yhat += self.b[-1][s].unsqueeze(1)
        return trace

    def _descend(self, x: Tensor, D: Tensor, rates: list[float], trace: list[_Trace], s: int) -> None:
        """Network s, from the top; D is (n_out, B)."""
        a, beta = trace[-1].a, self.W[-1][s]
        n_out, n_L, height, width = beta.shape
        bracket = torch.mm(D.T, _rows(beta * self._rows[-1][s])).view(-1, height, width, n_L).permute(0, 3, 1, 2)
        # beta has told the layer below what it needs; it may move.
        beta.add_((D @ _rows(a)).view(n_out, height, width, n_L).permute(0, 3, 1, 2), alpha=-rates[-1])
        if self.b is not None:
            self.b[-1][s].add_(D.sum(1), alpha=-rates[-1])

        for l in range(len(self.layers) - 1, -1, -1):
            layer, here = self.layers[l], trace[l]
            if here.where is not None:
                bracket = _max_pool_backward(bracket, here.z, *layer.pooling, [1, 1], False, here.where)
            self.activation.backward(bracket, here.h, here.z, out=bracket)
            below = trace[l - 1].a if l > 0 else x
            # The gradient of W_l does not depend on W_l, so that the rows may carry their p_l / c_l here.
            W = self.W[l][s] if l == 0 else self.W[l][s] * self._rows[l][s]
            wanted = [l > 0, True, self.b is not None]
            stride, padding = [layer.stride] * 2, [layer.pad] * 2
            bracket, of_W, of_b = _conv_backward(
                bracket, below, W, [len(W)], stride, padding, [1, 1], False, [0, 0], 1, wanted
            )
            self.W[l][s].add_(of_W, alpha=-rates[l])
            if self.b is not None:
                self.b[l][s].add_(of_b, alpha=-rates[l])

    def _bias(self, l: int, s: int) -> Tensor | None:
        return None if self.b is None else self.b[l][s]

    def _nonpositive(self, trace: list[_Trace], s: int) -> Tensor:
        """Of network s: (L,), averaged over the positions and under p_l, summed over the batch."""
        sums = []
        for p, here in zip(self.p[1:], trace, strict=False):
            share = (here.h <= 0).sum((0, 2, 3)).double() / here.h[0, 0].numel()
            sums.append((share * p.probabilities(len(share), s).to(share.device)).sum())
        return torch.stack(sums)


def _rows(a: Tensor) -> Tensor:
    """(B, n, height, width) as a matrix of B rows, with the channels last."""
    return a.permute(0, 2, 3, 1).reshape(len(a), -1)


def as_images(x: Tensor, image: Image) -> Tensor:
    """Inputs (B, d) as (B, channels, height, width)."""
    return x.view(-1, *image).permute(0, 3, 1, 2)
