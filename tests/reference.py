"""The networks and losses of the paper once more, in plain PyTorch with autograd: what the tests hold mfrun to."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mfrun.problems.tasks import Task

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": lambda h: torch.logaddexp(h, torch.zeros_like(h)),
    "gelu": F.gelu,
    "silu": F.silu,
    "erf": torch.erf,
    "leaky_relu": F.leaky_relu,
    "linear": lambda h: h,
}


def columns(y: Tensor, n_out: int) -> Tensor:
    """Class indices (B,) as unit column vectors (n_out, B); other labels as they are."""
    return torch.eye(n_out, dtype=torch.float64)[y].T if y.dtype == torch.int64 else y


def _huber(y: Tensor, yhat: Tensor) -> Tensor:
    e = (yhat - columns(y, len(yhat))).abs()
    return torch.where(e <= 1, e**2 / 2, e - 0.5).sum(0)


# L(y, yhat) of one network: yhat (n_out, B) -> (B,).
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared": lambda y, yhat: ((yhat - columns(y, len(yhat))) ** 2).sum(0),
    "cross_entropy": lambda y, yhat: torch.logsumexp(yhat, 0) - (yhat * columns(y, len(yhat))).sum(0),
    "logistic": lambda y, yhat: torch.logaddexp(torch.zeros_like(yhat), -y * yhat)[0],
    "huber": _huber,
}


def labels(task: Task, n_out: int, batch: int, generator: torch.Generator, stack: tuple[int, ...] = ()) -> Tensor:
    """Random labels of a kind, laid out as :class:`Task` says, behind the leading axes ``stack``."""
    if task is Task.CLASSES:
        return torch.randint(0, n_out, (*stack, batch), generator=generator)
    y = torch.randn((*stack, n_out, batch), generator=generator, dtype=torch.float64)
    return torch.where(y > 0, 1.0, -1.0).double() if task is Task.SIGN else y


def forward(W: list[Tensor], b: list[Tensor] | None, activation: str, x: Tensor) -> Tensor:
    """Eq. (38) for one network of finite width, inputs in the rows of x: yhat (n_out, B)."""
    a = x.T
    for l in range(len(W)):
        # Divided by n_{l-1} from the second layer on.
        h = W[l] @ a / (1 if l == 0 else W[l].shape[1])
        if b is not None:
            h = h + b[l]
        a = ACTIVATIONS[activation](h)
    return h
