"""Neurons sigma_l(theta, h) of Eq. (38): what a hidden neuron does with its pre-activation, with theta in R^q trained.

The default neuron, ``bias``, is sigma(h + b): the networks add the bias b_l to the pre-activation themselves, at no
cost. The others have a theta beside it, and see h with the bias in it. Their theta moves by the update of theta in
Section 3.1, autograd's gradient times n_l.

The output form of Section 3.1, theta_1 sigma(h + theta_2) + theta_3 with q = 3, is what layer L has by default:
theta_1 is the output weight beta, theta_2 the bias, and theta_3 enters by its average, the output bias. A neuron from
here takes the place of sigma in every hidden layer, L included: beta multiplies what it says.

To add one: subclass :class:`Neuron`, ``@register`` it, add ``conf/neuron/NAME.yaml``. ``value`` is enough; a class that
knows its derivatives overrides ``forward`` and ``backward``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from mfrun.errors import ConfigError
from mfrun.networks.activations import Activation, Tanh
from mfrun.networks.entrywise import refuse_unless_entrywise, refuse_wrong_derivatives
from mfrun.registry import base, checks, imported, register

# theta's q components, each (..., K, 1), beside pre-activations h (..., K, B).
Theta = tuple[Tensor, ...]


@base("neuron")
@dataclass
class Neuron:
    """sigma_l(theta, h), entry by entry.

    The components of theta are independent at step 0, with the law of the initial weights, shifted and scaled.

    Attributes:
        means: mean of each component of theta.
        deviations: standard deviation of each. At n = infinity those that are positive tell neurons apart.
        q: number of components beside the bias; None where the length of ``means`` says it.
    """

    means: list[float] = field(default_factory=list)
    deviations: list[float] = field(default_factory=list)
    q: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        q = len(self.means) if self.q is None else self.q
        for key in ("means", "deviations"):
            value = getattr(self, key)
            if len(value) != q or not all(map(math.isfinite, value)):
                raise ConfigError(
                    key, value, f"theta has {q} component{'s' * (q != 1)}, and each takes one finite number"
                )
        if min(self.deviations, default=0.0) < 0:
            raise ConfigError("deviations", self.deviations, "standard deviations are >= 0")

    @property
    def spread(self) -> list[int]:
        """The components of theta in which neurons differ at step 0."""
        return [k for k, deviation in enumerate(self.deviations) if deviation > 0]

    def initial(self, x: Tensor) -> Tensor:
        """theta at step 0 from coordinates x (..., q) of mean 0 and variance 1."""
        return x.clone().mul_(x.new_tensor(self.deviations)).add_(x.new_tensor(self.means))

    def value(self, sigma: Activation, theta: Theta, h: Tensor) -> Tensor:
        """sigma_l(theta, h) of h's shape, by operations that torch can differentiate.

        Args:
            sigma: the configured activation.
            theta: components, each (..., K, 1).
            h: (..., K, B), the bias included.
        """
        raise NotImplementedError

    def forward(self, sigma: Activation, theta: Theta, h: Tensor, out: Tensor) -> None:
        """Write sigma_l(theta, h) into ``out``."""
        out.copy_(self.value(sigma, theta, h))

    def backward(self, sigma: Activation, g: Tensor, theta: Theta, h: Tensor, out: Tensor) -> Theta:
        """Write g * d2 sigma_l(theta, h) into ``out``, which may be ``g`` itself.

        Returns:
            g * d1 sigma_l(theta, h), summed over the batch: (..., K, 1) for each component.
        """
        *by_theta, by_h = torch.func.vjp(lambda *at: self.value(sigma, at[:-1], at[-1]), *theta, h)[1](g)
        out.copy_(by_h)
        return tuple(by_theta)


@checks("neuron")
def refuse_wrong_neuron(neuron: Neuron, name: str) -> None:
    """Try a class of the user's own, and hold its derivatives to differences of its values.

    Raises:
        ConfigError: it fails, or they differ.
    """
    sigma = Tanh()
    random = torch.Generator().manual_seed(0)
    h = torch.randn((3, 4), generator=random, dtype=torch.float64)
    theta = torch.randn((len(neuron.means), 3, 1), generator=random, dtype=torch.float64)

    def value(*at: Tensor) -> Tensor:
        neuron.forward(sigma, at[:-1], at[-1], out=(out := torch.empty_like(h)))
        return out

    def pull(g: Tensor, *at: Tensor) -> list[Tensor]:
        # As in training, ``out`` is g itself.
        by_theta = neuron.backward(sigma, out := g.clone(), at[:-1], at[-1], out=out)
        return [*by_theta, out]

    refuse_wrong_derivatives("neuron.name", name, value, pull, (*(t + 1 for t in theta), h))


@register("neuron", "bias")
@dataclass
class Bias(Neuron):
    """sigma(h + b). The bias b_l, of mean mu3 and deviation tau3, is the paper's theta with q = 1; there is none beside
    it, and so q = 0 here."""

    means: list[float] = field(default_factory=list)
    deviations: list[float] = field(default_factory=list)
    q = 0


@register("neuron", "gain")
@dataclass
class Gain(Neuron):
    """theta_1 sigma(h)."""

    means: list[float] = field(default_factory=lambda: [1.0])
    deviations: list[float] = field(default_factory=lambda: [0.0])
    q = 1

    def forward(self, sigma: Activation, theta: Theta, h: Tensor, out: Tensor) -> None:
        sigma.forward(h, out=out)
        out.mul_(theta[0])

    def backward(self, sigma: Activation, g: Tensor, theta: Theta, h: Tensor, out: Tensor) -> Theta:
        s = torch.empty_like(h)
        sigma.forward(h, out=s)
        by_theta = (g * s).sum(-1, keepdim=True)
        sigma.backward(torch.mul(g, theta[0], out=out), h, s, out=out)
        return (by_theta,)


@register("neuron", "affine")
@dataclass
class Affine(Neuron):
    """theta_1 sigma(h) + theta_2: with the bias in h, the output form of Section 3.1 (q = 3) in every hidden layer."""

    means: list[float] = field(default_factory=lambda: [1.0, 0.0])
    deviations: list[float] = field(default_factory=lambda: [0.0, 0.0])
    q = 2

    def forward(self, sigma: Activation, theta: Theta, h: Tensor, out: Tensor) -> None:
        sigma.forward(h, out=out)
        torch.addcmul(theta[1], theta[0], out, out=out)

    def backward(self, sigma: Activation, g: Tensor, theta: Theta, h: Tensor, out: Tensor) -> Theta:
        s = torch.empty_like(h)
        sigma.forward(h, out=s)
        by_theta = (g * s).sum(-1, keepdim=True), g.sum(-1, keepdim=True)
        sigma.backward(torch.mul(g, theta[0], out=out), h, s, out=out)
        return by_theta


@register("neuron", "slope")
@dataclass
class Slope(Neuron):
    """sigma(h) + theta_1 (h - sigma(h)); for relu that is PReLU, whose negative side has the slope theta_1."""

    means: list[float] = field(default_factory=lambda: [0.25])
    deviations: list[float] = field(default_factory=lambda: [0.0])
    q = 1

    def forward(self, sigma: Activation, theta: Theta, h: Tensor, out: Tensor) -> None:
        sigma.forward(h, out=out)
        torch.lerp(out, h, theta[0], out=out)

    def backward(self, sigma: Activation, g: Tensor, theta: Theta, h: Tensor, out: Tensor) -> Theta:
        s = torch.empty_like(h)
        sigma.forward(h, out=s)
        by_theta = ((h - s).mul_(g)).sum(-1, keepdim=True)
        by_sigma = torch.empty_like(h)
        sigma.backward(g, h, s, out=by_sigma)
        torch.lerp(by_sigma, g, theta[0], out=out)
        return (by_theta,)


@register("neuron", "steepness")
@dataclass
class Steepness(Neuron):
    """sigma(theta_1 h)."""

    means: list[float] = field(default_factory=lambda: [1.0])
    deviations: list[float] = field(default_factory=lambda: [0.0])
    q = 1

    def forward(self, sigma: Activation, theta: Theta, h: Tensor, out: Tensor) -> None:
        sigma.forward(h * theta[0], out=out)

    def backward(self, sigma: Activation, g: Tensor, theta: Theta, h: Tensor, out: Tensor) -> Theta:
        z = h * theta[0]
        s = torch.empty_like(h)
        sigma.forward(z, out=s)
        sigma.backward(g, z, s, out=out)
        by_theta = (out * h).sum(-1, keepdim=True)
        out.mul_(theta[0])
        return (by_theta,)


@register("neuron", "gate")
@dataclass
class Gate(Neuron):
    """h sigma(theta_1 h); for sigmoid that is swish with its trainable beta (Ramachandran et al., arXiv 1710.05941)."""

    means: list[float] = field(default_factory=lambda: [1.0])
    deviations: list[float] = field(default_factory=lambda: [0.0])
    q = 1

    def forward(self, sigma: Activation, theta: Theta, h: Tensor, out: Tensor) -> None:
        sigma.forward(h * theta[0], out=out)
        out.mul_(h)

    def backward(self, sigma: Activation, g: Tensor, theta: Theta, h: Tensor, out: Tensor) -> Theta:
        z = h * theta[0]
        s = torch.empty_like(h)
        sigma.forward(z, out=s)
        inner = g * h
        sigma.backward(inner, z, s, out=inner)
        by_theta = (inner * h).sum(-1, keepdim=True)
        torch.addcmul(inner.mul_(theta[0]), g, s, out=out)
        return (by_theta,)


@register("neuron", "function")
@dataclass
class Function(Neuron):
    """The user's own sigma_l, a Python function of (theta, h); its derivatives are taken by torch.func.

    ``theta`` is a tuple of q arrays that broadcast against the array ``h``. The activation has no part in it.

    Attributes:
        function: ``package.module:name``.
        means: mean of each component; their number is q.
    """

    function: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._function = imported(self.function, "function")
        g = torch.Generator().manual_seed(0)
        theta = tuple(torch.randn((3, 1), generator=g, dtype=torch.float64) for _ in self.means)
        h = torch.randn((3, 4), generator=g, dtype=torch.float64)
        refuse_unless_entrywise("function", self.function, lambda *at: self._function(at[:-1], at[-1]), (*theta, h))

    def value(self, sigma: Activation, theta: Theta, h: Tensor) -> Tensor:
        return self._function(theta, h)


class Trained(Activation):
    """sigma_l(theta_l, .) of one layer with its theta_l: what stands there in the place of an activation.

    Args:
        neuron: sigma_l.
        sigma: the activation in it.
        theta: (S, K, q), updated in place.
    """

    def __init__(self, neuron: Neuron, sigma: Activation, theta: Tensor) -> None:
        self.neuron, self.sigma, self.theta = neuron, sigma, theta
        # One network's arrays have no axis S.
        columns = theta[0] if len(theta) == 1 else theta
        self._columns = tuple(columns[..., k : k + 1] for k in range(theta.shape[-1]))
        self._gradient = torch.zeros_like(columns)

    def forward(self, h: Tensor, out: Tensor) -> None:
        self.neuron.forward(self.sigma, self._columns, h, out)

    def backward(self, g: Tensor, h: Tensor, a: Tensor, out: Tensor) -> None:
        """As any activation's; theta's own derivative, summed over the batch, is kept for :meth:`move`."""
        for k, by_theta in enumerate(self.neuron.backward(self.sigma, g, self._columns, h, out)):
            self._gradient[..., k : k + 1] = by_theta

    def member(self, s: int) -> Trained:
        """That of one of the stacked networks; it shares this one's memory."""
        return Trained(self.neuron, self.sigma, self.theta[s : s + 1])

    def move(self, alpha: float) -> None:
        """theta_l <- theta_l + alpha [W_{l+1}^T (p_{l+1} * D_{l+1})] * d1 sigma_l(theta_l, h_l) (Section 3.1)."""
        self.theta.view_as(self._gradient).add_(self._gradient, alpha=alpha)
