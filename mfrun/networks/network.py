"""What the training loop, the evaluation and the study ask of a network, dense or convolutional."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from mfrun.errors import UserError
from mfrun.networks.measures import Measure
from mfrun.networks.products import Products

# Height, width and channels.
Image = tuple[int, int, int]


class Workspace(Protocol):
    """What the passes of one network write into, for one batch size."""

    @property
    def h(self) -> Sequence[Tensor]:
        """h_1 .. h_L after a forward pass where a backward pass may follow it: replicates first, samples last."""

    @property
    def a(self) -> Sequence[Tensor]:
        """a_1 .. a_L likewise."""


Ws = TypeVar("Ws", bound=Workspace)


class Network(ABC, Generic[Ws]):
    """S networks of one shape that see the same batches, each array stacked along its first axis.

    Attributes:
        replicates: S.
        d: inputs.
        widths: neurons (or filters) of the L hidden layers.
        n_out: outputs.
        p: the measures p_0 .. p_{L+1}; those of the input and the output count (p = 1).
        products: how matrices are multiplied.
    """

    replicates: int
    d: int
    widths: list[int]
    n_out: int
    p: list[Measure]
    products: Products

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """The trained arrays by name, W_l and b_l as ``Wl`` and ``bl``: the network's own memory, not copies."""

    @abstractmethod
    def workspace(self, batch: int, backward: bool = True) -> Ws:
        """What :meth:`forward` and :meth:`descend` write into.

        Args:
            batch: samples in a batch.
            backward: whether :meth:`descend` will be called.
        """

    @abstractmethod
    def forward(self, x: Tensor, ws: Ws) -> Tensor:
        """yhat, (S, n_out, B), or (n_out, B) when S = 1; it lives in ``ws``.

        Args:
            x: inputs (B, d), the same for every replicate, or (S, B, d).
            ws: a :meth:`workspace` for batch size B.
        """

    @abstractmethod
    def descend(self, x: Tensor, D: Tensor, rates: list[float], ws: Ws) -> None:
        """Scaled backward pass and SGD update.

        Args:
            x: the inputs of the forward pass that filled ``ws``.
            D: dL/dyhat for each sample, shaped like yhat.
            rates: one number for each layer, alpha xi_l(t) / B (the mean over the batch).
            ws: as the forward pass left it.
        """

    @abstractmethod
    def nonpositive(self, ws: Ws) -> list[Tensor]:
        """For each hidden layer the fraction of pre-activations <= 0, averaged under p_l, summed over the batch.

        Returns:
            L arrays (S,), float64.
        """

    def spread(self, ws: Ws) -> list[Tensor]:
        """For each hidden layer the variance of h_l over its neurons, under p_l, summed over the batch.

        Returns:
            L arrays (S,), float64; none where the workspace does not keep the layers.
        """
        found = []
        for p, h in zip(self.p[1:], ws.h[: len(self.widths)], strict=False):
            h = h.view(self.replicates, -1, h.shape[-1])
            mean = p.mean(h).to(h.dtype).unsqueeze(1)
            found.append(p.mean((h - mean).square()).sum(-1))
        return found

    def member(self, s: int) -> Network[Ws]:
        """One of the S networks; it shares this one's memory. Kinds that are taped have it."""
        raise NotImplementedError

    def workspace_bytes(self, batch: int, backward: bool = True) -> int:
        """Memory of a :meth:`workspace` at its peak: by default h, a and D of every neuron."""
        like = next(iter(self.state().values()))
        numbers = (2 + backward) * sum(self.widths) + (1 + backward) * self.n_out
        return self.replicates * batch * numbers * like.itemsize

    def outputs(self, inputs: Iterable[Tensor]) -> Tensor:
        """yhat (S, n_out, samples) over chunks (B, d) of inputs; its own memory."""
        found = []
        for x in inputs:
            yhat = self.forward(x, self.workspace(len(x), backward=False))
            found.append(yhat.reshape(self.replicates, self.n_out, -1).clone())
        return torch.cat(found, -1)

    def probabilities(self, l: int) -> Tensor:
        """p_l of every stacked network, (S, K_l), float64, on the CPU; every row sums to 1."""
        return torch.stack([self.p[l].probabilities(self.widths[l - 1], s) for s in range(self.replicates)])

    @property
    def parts(self) -> list[Network[Any]]:
        """The stacks of one size that it consists of; the first is what a study of its neurons looks at."""
        return [self]

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the arrays of another network's :meth:`state`.

        Raises:
            UserError: they are those of another.
        """
        for name, array in self.state().items():
            if name not in tensors or tensors[name].shape != array.shape:
                there = f"of shape {tuple(tensors[name].shape)}" if name in tensors else "missing"
                why = f"{name} is {there}, and {tuple(array.shape)} in the network of its configuration"
                raise UserError(f"a saved state does not fit: {why}; another version of mfrun may have written it")
            array.copy_(tensors[name])
