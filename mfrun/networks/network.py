"""What the training loop, the evaluation and the study ask of a network, dense or convolutional."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mfrun.networks.measures import Measure
from mfrun.networks.products import Products


class Network(ABC):
    """S networks of one shape that see the same batches, each array stacked along its first axis.

    Attributes:
        replicates: S.
        widths: neurons (or filters) of the L hidden layers.
        n_out: outputs.
        p: the measures p_0 .. p_{L+1}; those of the input and the output count (p = 1).
        products: how matrices are multiplied.
    """

    replicates: int
    widths: list[int]
    n_out: int
    p: list[Measure]
    products: Products

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """The trained arrays by name. They are the network's own memory, not copies."""

    @abstractmethod
    def workspace(self, batch: int, backward: bool = True) -> Any:
        """What :meth:`forward` and :meth:`descend` write into, for one batch size.

        With ``backward``, its lists ``h`` and ``a`` hold h_1 .. h_L and a_1 .. a_L after a forward pass.

        Args:
            batch: samples in a batch.
            backward: whether :meth:`descend` will be called.
        """

    @abstractmethod
    def forward(self, x: Tensor, ws: Any) -> Tensor:
        """yhat, (S, n_out, B), or (n_out, B) when S = 1; it lives in ``ws``.

        Args:
            x: inputs (B, d), the same for every replicate, or (S, B, d).
            ws: a :meth:`workspace` for batch size B.
        """

    @abstractmethod
    def descend(self, x: Tensor, D: Tensor, rates: list[float], ws: Any) -> None:
        """Scaled backward pass and SGD update.

        Args:
            x: the inputs of the forward pass that filled ``ws``.
            D: dL/dyhat for each sample, shaped like yhat.
            rates: one number for each layer, alpha xi_l(t) / B (the mean over the batch).
            ws: as the forward pass left it.
        """

    @abstractmethod
    def nonpositive(self, ws: Any) -> list[Tensor]:
        """For each hidden layer the fraction of pre-activations <= 0, averaged under p_l, summed over the batch.

        Returns:
            L arrays (S,), float64.
        """

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the arrays of another network's :meth:`state`."""
        for name, array in self.state().items():
            array.copy_(tensors[name])
