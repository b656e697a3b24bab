"""Networks of several sizes that see the same batches and train as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mfrun.networks.network import Network


class SeveralWorkspace:
    """The members' workspaces, and the outputs of all networks (S, n_out, B)."""

    def __init__(self, parts: list[Any], yhat: Tensor) -> None:
        self.parts, self.yhat = parts, yhat

    @property
    def h(self) -> Sequence[Tensor]:
        """Those of the first member."""
        found: Sequence[Tensor] = self.parts[0].h
        return found

    @property
    def a(self) -> Sequence[Tensor]:
        """Those of the first member."""
        found: Sequence[Tensor] = self.parts[0].a
        return found


class Several(Network[SeveralWorkspace]):
    """Stacks of networks beside one another; ``widths`` and ``p`` are those of the first.

    Args:
        parts: the stacks, by the prefix of their arrays' names.
    """

    def __init__(self, parts: dict[str, Network[Any]]) -> None:
        self._parts, self._prefixes = list(parts.values()), list(parts)
        first = self._parts[0]
        self.d, self.n_out, self.products = first.d, first.n_out, first.products
        self.widths, self.p = first.widths, first.p
        self.replicates = sum(part.replicates for part in self._parts)

    @property
    def parts(self) -> list[Network[Any]]:
        return self._parts

    def state(self) -> dict[str, Tensor]:
        return {
            f"{prefix}{name}": array
            for prefix, part in zip(self._prefixes, self._parts, strict=True)
            for name, array in part.state().items()
        }

    def workspace(self, batch: int, backward: bool = True) -> SeveralWorkspace:
        like = next(iter(self.state().values()))
        yhat = torch.empty((self.replicates, self.n_out, batch), dtype=like.dtype, device=like.device)
        return SeveralWorkspace([part.workspace(batch, backward) for part in self._parts], yhat)

    def workspace_bytes(self, batch: int, backward: bool = True) -> int:
        own = self.replicates * self.n_out * batch * next(iter(self.state().values())).itemsize
        return own + sum(part.workspace_bytes(batch, backward) for part in self._parts)

    def forward(self, x: Tensor, ws: SeveralWorkspace) -> Tensor:
        def one(part: Network[Any], own: Any, chosen: slice) -> None:
            yhat = part.forward(x[chosen] if x.dim() == 3 else x, own)
            ws.yhat[chosen].copy_(yhat.view(part.replicates, self.n_out, -1))

        self._each(ws, one)
        return ws.yhat

    def descend(self, x: Tensor, D: Tensor, rates: list[float], ws: SeveralWorkspace) -> None:
        def one(part: Network[Any], own: Any, chosen: slice) -> None:
            signal = D[chosen] if part.replicates > 1 else D[chosen][0]
            part.descend(x[chosen] if x.dim() == 3 else x, signal, rates, own)

        self._each(ws, one)

    def probabilities(self, l: int) -> Tensor:
        """Those of the first member, (its S, K_l): others have other neurons."""
        return self._parts[0].probabilities(l)

    def nonpositive(self, ws: SeveralWorkspace) -> list[Tensor]:
        found = [part.nonpositive(own) for part, own in zip(self._parts, ws.parts, strict=True)]
        return [torch.cat(layer) for layer in zip(*found, strict=True)]

    def _each(self, ws: SeveralWorkspace, call: Callable[[Network[Any], Any, slice], None]) -> None:
        begin = 0
        for part, own in zip(self._parts, ws.parts, strict=True):
            call(part, own, slice(begin, begin + part.replicates))
            begin += part.replicates
