"""The initial law ``embedding``: neurons with labels, so that those of an inner layer differ in the limit as well.

Neuron i of layer l carries a label u in R^m, and the weights between two neurons are a function of their labels, as in
the paper's rho_0 (end of Sections 2.2 and 3.2) and in the neuronal embeddings of Nguyen and Pham (arXiv 2001.11443):

    W_l[j, i] = mu2 + tau g(<u_j, u_i> / sqrt(m)) + noise xi_ji,    l = 2 .. L.

In layer 1 the label is the projection of the neuron's w on m directions, brought to variance 1; above it is drawn from
the law of the entries. It has to depend on w: with labels that are independent of what their neurons do, every average
E[u a] is 0 at the start, and the layer stays one neuron. The limit forgets the noise, and with tau = 0 the law is that
of i.i.d. entries whose deviation is the noise.

Output weights and biases are drawn independently of the labels, or are functions of them (``tie``):

    beta^o_j = mu2 + tau2 u_j[o mod m],    b_j = mu3 + tau3 (u_j[1] + .. + u_j[m]) / sqrt(m).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mfrun.errors import ConfigError
from mfrun.networks.init import IID, TIED, Layers
from mfrun.networks.neurons import Neuron
from mfrun.registry import imported, reason, register
from mfrun.seeds import generator

G: dict[str, Callable[[Tensor], Tensor]] = {"identity": lambda z: z, "erf": torch.erf, "tanh": torch.tanh}
DIRECTIONS = ("principal", "random")


@register("init", "embedding")
@dataclass
class Embedding(IID):
    """Inner weights by labels; all else as with i.i.d. entries.

    Attributes:
        m: numbers in a label.
        g: ``identity``, ``erf`` or ``tanh`` of <u_j, u_i> / sqrt(m); or your own ``package.module:function`` of l,
            labels (..., K_l, m) of layer l and labels (..., K_{l-1}, m) of the layer below, torch tensors, which
            returns a tensor (..., K_l, K_{l-1}); nothing is divided by sqrt(m) but what it divides itself.
        tau: what g is multiplied by; ``tau2`` is the deviation of the output weights alone.
        directions: on which w is projected for the labels of layer 1: ``principal``, those in which the training
            inputs (in a convolution, their patches) vary most; ``random``; or a file ``.npy`` with an array (m, d),
            whose rows are brought to length 1.
        directions_seed: of random ones, which are the same for all widths and starts.
        noise: standard deviation of i.i.d. noise on the inner weights.
        tie: what the label decides, too: ``beta``, ``bias`` or both.
    """

    m: int = 8
    g: str = "identity"
    tau: float = 4.0
    directions: str = "principal"
    directions_seed: int = 0
    noise: float = 0.0
    tie: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._seen: Tensor | None = None
        if self.m < 1:
            raise ConfigError("m", self.m, "must be at least 1")
        if not math.isfinite(self.tau):
            raise ConfigError("tau", self.tau, "must be a finite number")
        if not 0 <= self.noise < math.inf:
            raise ConfigError("noise", self.noise, "a standard deviation is a finite number >= 0")
        if self.tau != 0 and self.tau1 == 0:
            raise ConfigError("tau1", self.tau1, "labels of layer 1 are projections of w, which tau1=0 makes 0")
        for name in self.tie:
            if name not in TIED:
                raise ConfigError("tie", self.tie, f"lists {' and '.join(TIED)}, or nothing")
        if ":" in self.g:
            self._own = imported(self.g, "init.g")
        elif self.g not in G:
            own = "or your own package.module:function of (l, labels above, labels below)"
            raise ConfigError("g", self.g, f"one of {', '.join(G)}, {own}")
        self.labelled = self.tau != 0
        # Labels have mean 0, and an even g of them has not; other scalings than the mean field one are refused.
        self.zero_mean = self.mu2 == 0 and not self.labelled

    def coordinates(self, l: int, layers: Layers, neuron: Neuron) -> dict[str, int]:
        found = super().coordinates(l, layers, neuron)
        if not self.labelled:
            return found
        found = {name: count for name, count in found.items() if name not in self.tie}
        return found | {"label": self.m} if l > 1 else found

    def tied(self, name: str, count: int, labels: Tensor) -> Tensor | None:
        if name not in self.tie:
            return None
        if name == "bias":
            return labels.sum(-1, keepdim=True) / math.sqrt(self.m)
        return labels[..., torch.arange(count) % self.m]

    def look(self, fan_in: int, principal: Callable[[int], Tensor]) -> None:
        if not self.labelled:
            return
        if self.m > fan_in:
            raise ConfigError("init.m", self.m, f"labels of more numbers than the {fan_in} weights of a neuron")
        if self.directions == "random":
            return
        if self.directions == "principal":
            self._seen = principal(self.m)
            return
        try:
            array = np.load(Path(self.directions), allow_pickle=False)
            found = torch.as_tensor(np.asarray(array, dtype=np.float64))
        except (OSError, ValueError, TypeError) as error:
            why = f"one of {', '.join(DIRECTIONS)}, or a file .npy with an array (m, d), found from this folder; "
            why += error.strerror if isinstance(error, OSError) and error.strerror else reason(error)
            raise ConfigError("init.directions", self.directions, why) from error
        lengths = found.norm(dim=-1, keepdim=True) if found.dim() == 2 else torch.zeros(1)
        if found.dim() != 2 or len(found) != self.m or not bool((lengths > 0).all() and found.isfinite().all()):
            why = f"holds an array {tuple(found.shape)}; init.m={self.m} needs ({self.m}, d), finite and no row 0"
            raise ConfigError("init.directions", self.directions, why)
        self._seen = found / lengths

    def labels(self, l: int, x: Mapping[str, Tensor]) -> Tensor | None:
        if not self.labelled:
            return None
        if l > 1:
            return x["label"]
        w = x["w"]
        return w @ self._directions(w.shape[-1]).to(w.device).T

    def _directions(self, fan_in: int) -> Tensor:
        """(m, fan_in), with rows of length 1, so that projections of w have variance 1."""
        if self.directions == "random":
            random = generator("directions", self.directions_seed)
            drawn = torch.randn((fan_in, self.m), generator=random, dtype=torch.float32)
            return torch.linalg.qr(drawn.double()).Q.T
        assert self._seen is not None, "look() comes before a network is drawn"
        if self._seen.shape[1] != fan_in:
            why = f"are directions among {self._seen.shape[1]} numbers; a neuron of layer 1 has {fan_in} weights"
            raise ConfigError("init.directions", self.directions, why)
        return self._seen

    def inner(self, l: int, above: Tensor | None, below: Tensor | None) -> Tensor | float:  # type: ignore[override]
        if above is None or below is None:
            return self.mu2
        wanted = (*above.shape[:-1], below.shape[-2])
        if above.is_meta:  # Only shapes are asked for, and the user's own code may need numbers.
            return above.new_empty(wanted)
        if ":" not in self.g:
            return G[self.g](above @ below.mT / math.sqrt(self.m)).mul(self.tau).add(self.mu2)
        try:
            found = self._own(l, above, below)
        except Exception as error:  # It is the user's own code.
            raise ConfigError("init.g", self.g, f"fails ({type(error).__name__}: {reason(error)})") from error
        if not isinstance(found, Tensor) or tuple(found.shape) != wanted:
            said = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            labels = f"labels {tuple(above.shape)} and {tuple(below.shape)}"
            raise ConfigError("init.g", self.g, f"must return a torch tensor {wanted} from {labels}, not {said}")
        if not bool(found.isfinite().all()):
            raise ConfigError("init.g", self.g, "returns numbers that are not finite")
        return found * self.tau + self.mu2
