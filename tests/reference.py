"""The networks and losses of the paper once more, in plain PyTorch with autograd: what the tests hold mfrun to."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mfrun.networks.activations import Activation
from mfrun.networks.architecture import Architecture, Blueprint
from mfrun.networks.init import IID, InitialLaw
from mfrun.networks.laws import Law
from mfrun.problems.tasks import Task
from mfrun.registry import find

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


Scalar = Callable[[Tensor], Tensor]

# sigma_l(theta, h), from sigma, theta (n_l, q) and h (n_l, B).
NEURONS: dict[str, Callable[[Scalar, Tensor, Tensor], Tensor]] = {
    "bias": lambda s, t, h: s(h),
    "gain": lambda s, t, h: t[:, :1] * s(h),
    "affine": lambda s, t, h: t[:, :1] * s(h) + t[:, 1:],
    "slope": lambda s, t, h: (1 - t) * s(h) + t * h,
    "steepness": lambda s, t, h: s(t * h),
    "gate": lambda s, t, h: h * s(t * h),
    "function": lambda s, t, h: ripple(t.split(1, 1), h),
}


def ripple(theta: tuple[Tensor, ...], h: Tensor) -> Tensor:
    """A neuron of the user's own, q = 3."""
    return theta[0] * torch.sin(theta[1] * h + theta[2]) + h


# sigma*(w, a), of arrays that broadcast.
OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product": lambda w, a: w * a,
    "separable": lambda w, a: torch.tanh(w) * a,
    "of_sum": lambda w, a: torch.relu(w + a),
    "of_product": lambda w, a: torch.tanh(w * a),
    "function": lambda w, a: torch.sin(w + a) + w * torch.tanh(a),
}
bend = OPERATIONS["function"]


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


def general_forward(
    W: list[Tensor],
    b: list[Tensor] | None,
    theta: list[Tensor],
    p: list[Tensor],
    omega: Tensor,
    rule: tuple[str, str, str],
    x: Tensor,
) -> Tensor:
    """Eq. (38) with the local operation of Section 2.4, for one network with any measure over its neurons.

    Args:
        W: W_1 (n_1, d), W_l (n_l, n_{l-1} Q), W_{L+1} (n_out, n_L).
        b: (n_l, 1) for every layer.
        theta: (n_l, q) for every hidden layer.
        p: probabilities (n_l) of the neurons of every hidden layer.
        omega: probabilities (Q) of the values of one weight.
        rule: activation, neuron, operation.
        x: inputs in rows (B, d).
    """
    activation, neuron, operation = rule
    h = W[0] @ x.T
    for l in range(1, len(W)):
        h = h if b is None else h + b[l - 1]
        a = NEURONS[neuron](ACTIVATIONS[activation], theta[l - 1], h)
        if l == len(W) - 1:
            h = W[l] @ (p[l - 1][:, None] * a)
        else:
            w = W[l].view(len(W[l]), len(a), -1, 1)
            h = torch.einsum("jiqb,i,q->jb", OPERATIONS[operation](w, a[None, :, None]), p[l - 1], omega)
    return h if b is None else h + b[-1]


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


def Init(law: Law, tau1: float, mu2: float, tau2: float, mu3: float, tau3: float) -> IID:
    """The i.i.d. initial law with a law of entries that is an object."""
    name = next(name for name in ("normal", "uniform", "rademacher") if find("law", name, "law") is type(law))
    return IID(name, tau1, mu2, tau2, mu3, tau3)


def build(architecture: Architecture, activation: Activation, init: InitialLaw, **keys: Any) -> Any:
    """A network at step 0; None stands for a component's default."""
    given = {key: value for key, value in keys.items() if value is not None}
    return architecture.draw(Blueprint(activation, init, **given))


def build_conv(architecture: Architecture, activation: Activation, init: InitialLaw, **keys: Any) -> Any:
    """The same for images, whose architecture knows its depth."""
    depth = len(architecture.layers) + 1
    return build(architecture, activation, init, depth=depth, d=math.prod(keys["image"]), **keys)
