"""Scalar nonlinearities sigma and their derivatives, where torch has it as one fused pass.

``forward`` writes sigma(h); ``backward`` writes g * sigma'(h), the product that every line of the scaled backward
pass (Section 3.1) ends with. To add one: subclass :class:`Activation`, ``@register`` it, add
``conf/activation/NAME.yaml``. A plain function, ``activation.name=torch.nn.functional:mish``, has its derivative taken
by autograd.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mfrun.errors import ConfigError
from mfrun.networks.entrywise import refuse_unless_entrywise
from mfrun.registry import base, checks, of_functions, register

_aten = torch.ops.aten
_relu_backward = _aten.threshold_backward.grad_input
_tanh_backward = _aten.tanh_backward.grad_input
_sigmoid_backward = _aten.sigmoid_backward.grad_input
_softplus_backward = _aten.softplus_backward.grad_input
_gelu_backward = _aten.gelu_backward.grad_input
_silu_backward = _aten.silu_backward.grad_input
_leaky_relu_backward = _aten.leaky_relu_backward.grad_input


@base("activation")
class Activation(ABC):
    """An entry-wise nonlinearity."""

    def __call__(self, h: Tensor) -> Tensor:
        """sigma(h) as a new array, by an operation that torch can differentiate."""
        found: Tensor = _Applied.apply(h, self)
        return found

    @abstractmethod
    def forward(self, h: Tensor, out: Tensor) -> None:
        """Write sigma(h) into ``out`` (same shape)."""

    @abstractmethod
    def backward(self, g: Tensor, h: Tensor, a: Tensor, out: Tensor) -> None:
        """Write g * sigma'(h) into ``out``, which may be ``g`` itself; ``a`` is sigma(h)."""


class _Applied(torch.autograd.Function):
    """sigma(h) and its derivative, for autograd and :mod:`torch.func`."""

    @staticmethod
    def forward(h: Tensor, sigma: Activation) -> Tensor:
        sigma.forward(h, out=(out := torch.empty_like(h)))
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Activation], output: Tensor) -> None:
        h, ctx.sigma = inputs
        ctx.save_for_backward(h, output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        h, a = ctx.saved_tensors
        ctx.sigma.backward(g.contiguous(), h, a, out=(out := torch.empty_like(h)))
        return out, None


@register("activation", "relu")
@dataclass
class ReLU(Activation):
    """max(0, h), with derivative 0 at h = 0."""

    def forward(self, h: Tensor, out: Tensor) -> None:
        torch.clamp_min(h, 0, out=out)

    def backward(self, g: Tensor, h: Tensor, a: Tensor, out: Tensor) -> None:
        _relu_backward(g, a, 0, grad_input=out)


@register("activation", "tanh")
@dataclass
class Tanh(Activation):
    """tanh(h); derivative 1 - tanh(h)^2."""

    def forward(self, h: Tensor, out: Tensor) -> None:
        torch.tanh(h, out=out)

    def backward(self, g: Tensor, h: Tensor, a: Tensor, out: Tensor) -> None:
        _tanh_backward(g, a, grad_input=out)


@register("activation", "sigmoid")
@dataclass
class Sigmoid(Activation):
    """s(h) = 1 / (1 + e^-h); derivative s (1 - s)."""

    def forward(self, h: Tensor, out: Tensor) -> None:
        torch.sigmoid(h, out=out)

    def backward(self, g: Tensor, h: Tensor, a: Tensor, out: Tensor) -> None:
        _sigmoid_backward(g, a, grad_input=out)


@register("activation", "softplus")
@dataclass
class Softplus(Activation):
    """log(1 + e^h); derivative 1 / (1 + e^-h)."""

    # Above this h the function is h to float64 accuracy.
    _LINEAR = 40.0

    def forward(self, h: Tensor, out: Tensor) -> None:
        _aten.softplus.out(h, 1.0, self._LINEAR, out=out)

    def backward(self, g: Tensor, h: Tensor, a: Tensor, out: Tensor) -> None:
        _softplus_backward(g, h, 1.0, self._LINEAR, grad_input=out)


@register("activation", "gelu")
@dataclass
class GELU(Activation):
    """h Phi(h), Phi the normal distribution function (the exact form)."""

    def forward(self, h: Tensor, out: Tensor) -> None:
        _aten.gelu.out(h, out=out)

    def backward(self, g: Tensor, h: Tensor, a: Tensor, out: Tensor) -> None:
        _gelu_backward(g, h, grad_input=out)


@register("activation", "silu")
@dataclass
class SiLU(Activation):
    """h / (1 + e^-h), also called swish."""

    def forward(self, h: Tensor, out: Tensor) -> None:
        _aten.silu.out(h, out=out)

    def backward(self, g: Tensor, h: Tensor, a: Tensor, out: Tensor) -> None:
        _silu_backward(g, h, grad_input=out)


@register("activation", "erf")
@dataclass
class Erf(Activation):
    """erf(h); derivative 2 / sqrt(pi) e^(-h^2)."""

    def forward(self, h: Tensor, out: Tensor) -> None:
        torch.erf(h, out=out)

    def backward(self, g: Tensor, h: Tensor, a: Tensor, out: Tensor) -> None:
        torch.mul(g, torch.exp(-h * h).mul_(2 / math.sqrt(math.pi)), out=out)


@register("activation", "leaky_relu")
@dataclass
class LeakyReLU(Activation):
    """h for h > 0, slope * h otherwise."""

    slope: float = 0.01

    def __post_init__(self) -> None:
        if not math.isfinite(self.slope):
            raise ConfigError("slope", self.slope, "must be a finite number")

    def forward(self, h: Tensor, out: Tensor) -> None:
        _aten.leaky_relu.out(h, self.slope, out=out)

    def backward(self, g: Tensor, h: Tensor, a: Tensor, out: Tensor) -> None:
        _leaky_relu_backward(g, h, self.slope, False, grad_input=out)


@register("activation", "linear")
@dataclass
class Linear(Activation):
    """h itself: a deep linear network."""

    def forward(self, h: Tensor, out: Tensor) -> None:
        out.copy_(h)

    def backward(self, g: Tensor, h: Tensor, a: Tensor, out: Tensor) -> None:
        if out is not g:
            out.copy_(g)


@of_functions("activation")
class OfFunction(Activation):
    """A function of one array, which acts entry by entry; autograd takes its derivative.

    Args:
        function: sigma.
        name: what it is called in the configuration.

    Raises:
        ConfigError: it fails, or does not act entry by entry.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], name: str) -> None:
        self._function = function
        h = torch.randn((3, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        refuse_unless_entrywise("activation.name", name, function, (h,))

    def forward(self, h: Tensor, out: Tensor) -> None:
        out.copy_(self._function(h))

    def backward(self, g: Tensor, h: Tensor, a: Tensor, out: Tensor) -> None:
        with torch.enable_grad():
            at = h.detach().requires_grad_()
            (product,) = torch.autograd.grad(self._function(at), at, g)
        out.copy_(product)


@checks("activation")
def refuse_wrong_derivative(activation: Activation, name: str) -> None:
    """Hold the derivative of a class to differences of its values; training hands it g for ``out``.

    Raises:
        ConfigError: they differ, by how much, or the class writes to h.
    """
    random = torch.Generator().manual_seed(0)
    h, g = (torch.randn(200, generator=random, dtype=torch.float64).mul_(2) for _ in range(2))
    given, step = h.clone(), 1e-6
    try:
        a, above, below, found = (torch.empty_like(h) for _ in range(4))
        activation.forward(h + step, out=above)
        activation.forward(h - step, out=below)
        activation.forward(h, out=a)
        activation.backward(g, h, a, out=found)
        activation.backward(in_place := g.clone(), h, a, out=in_place)
    except Exception as error:  # It is the user's own code.
        raise ConfigError("activation.name", name, f"fails ({type(error).__name__}: {error})") from error
    if not torch.equal(h, given):
        raise ConfigError("activation.name", name, "changes h, which others read after it")
    true = g * (above - below) / (2 * step)
    both = torch.stack([found - true, in_place - true]).abs().amax(0)
    off = float(both.max() / true.abs().max().clamp_min(1e-12))
    if not off < 1e-5:
        at = float(h[both.argmax()])
        why = f"its backward is not the derivative of its forward: off by {off:.2g} of the largest, at h = {at:.3g}"
        raise ConfigError("activation.name", name, why)
