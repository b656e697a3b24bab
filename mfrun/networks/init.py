"""Initial laws: the law rho_0 of the neurons at step 0, ``init=``.

The paper's limit is about any rho_0 (Sections 2.2 and 3.2): a neuron of layer l draws what it is at the start, and the
weight between two neurons is a function of what the two are. In that picture an initial law says three things:

    coordinates     what tells the neurons of a layer apart: numbers of mean 0 and variance 1 with the law ``entries``
    labels          which function of them the weights of the layers between neurons depend on
    inner weights   the conditional mean of W_l[j, i] (l = 2 .. L) given the labels of both neurons, and the deviation
                    of i.i.d. noise around it

It does not say how many neurons there are, nor how they are weighed: :mod:`mfrun.networks.drawing` draws n of them for
a network of width n, with the noise, and takes one for each type at n = infinity, without it.

To add one: subclass :class:`InitialLaw`, ``@register`` it, add ``conf/init/NAME.yaml``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from mfrun.errors import ConfigError
from mfrun.networks.laws import Law, refuse_unless_a_law
from mfrun.networks.neurons import Neuron
from mfrun.registry import base, find, register

# Coordinates that become arrays of the network; the others serve the labels alone.
ARRAYS = ("w", "bias", "theta", "beta")
# Those that may be functions of a label.
TIED = ("beta", "bias")


@dataclass(frozen=True)
class Layers:
    """The arrays that a network of one kind has, as far as an initial law has to know them.

    Attributes:
        inputs: neurons (or channels) below layer 1.
        n_out: outputs.
        kernels: shape of the weight between two neurons in each of the layers 1 .. L + 1: () where it is one number,
            (height, width) in a convolution.
        biases: whether there are any.
    """

    inputs: int
    n_out: int
    kernels: tuple[tuple[int, ...], ...]
    biases: bool

    @property
    def L(self) -> int:
        """Number of hidden layers."""
        return len(self.kernels) - 1

    @property
    def fan_in(self) -> int:
        """Weights of a neuron of layer 1, d in a dense network."""
        return self.inputs * math.prod(self.kernels[0])

    @property
    def betas(self) -> int:
        """Output weights of a neuron of layer L, n_out in a dense network."""
        return self.n_out * math.prod(self.kernels[-1])


@base("init")
class InitialLaw(ABC):
    """rho_0. Coordinates called ``w``, ``bias``, ``theta`` and ``beta`` become the arrays of those names.

    Attributes:
        entries: law of each coordinate, and of the noise.
        labelled: whether inner weights depend on labels.
        zero_mean: whether the weights of the layers above the first have mean 0, as scalings other than the mean field
            one need it.
    """

    entries: Law
    zero_mean: bool
    labelled: bool = False

    @abstractmethod
    def coordinates(self, l: int, layers: Layers, neuron: Neuron) -> dict[str, int]:
        """What tells the neurons of layer l = 1 .. L apart, by name, with the number of each; those without a spread
        are left out.

        ``w`` are the ``layers.fan_in`` weights of layer 1, ``bias`` is one number, ``theta`` has one for each of the
        neuron's components that has a deviation, and ``beta`` are the output weights of a neuron of layer L, one for
        each output and entry of the last kernel. Names of the law's own are for :meth:`labels`.
        """

    # The next three act entry by entry, on arrays of any shape: real networks and the limit have the coordinates in
    # different ones. They may overwrite what they are given. ``scale`` multiplies the standard deviation, as a scaling
    # asks.

    @abstractmethod
    def first(self, w: Tensor, fan_in: int, scale: float = 1.0) -> Tensor:
        """W_1 from its coordinates."""

    @abstractmethod
    def bias(self, z: Tensor, scale: float = 1.0) -> Tensor:
        """Biases from their coordinates."""

    @abstractmethod
    def output(self, z: Tensor, scale: float = 1.0) -> Tensor:
        """Output weights beta from their coordinates."""

    @property
    @abstractmethod
    def noise(self) -> float:
        """Standard deviation of the inner weights around their conditional mean; the limit forgets it."""

    @abstractmethod
    def inner(self, l: int, above: Tensor | None, below: Tensor | None) -> Tensor | float:
        """Conditional mean of W_l[j, i] for l = 2 .. L, f_l of Eq. (27) at t = 0.

        Args:
            l: the layer.
            above: labels (..., K_l, m) of its neurons.
            below: labels (..., K_{l-1}, m) of those below.

        Returns:
            (..., K_l, K_{l-1}), or one number for all.
        """

    def look(self, fan_in: int, principal: Callable[[int], Tensor]) -> None:
        """See the training inputs, before anything is drawn; by default there is nothing to see.

        Args:
            fan_in: weights of a neuron of layer 1.
            principal: gives the m directions (m, fan_in) in which what such a neuron sees varies most, orthonormal,
                float64.

        Raises:
            ConfigError: what it was to be made of does not fit.
        """
        return

    def labels(self, l: int, x: Mapping[str, Tensor]) -> Tensor | None:
        """What :meth:`inner` has to know of the neurons of layer l; by default nothing.

        Args:
            l: the layer.
            x: coordinates (..., K, number) by name: ``w`` of layer 1, and in every layer those of the law's own.

        Returns:
            (..., K, m).
        """
        return None

    def tied(self, name: str, count: int, labels: Tensor) -> Tensor | None:
        """Coordinates that a neuron's label decides; by default none.

        Args:
            name: ``bias`` or ``beta``; :meth:`coordinates` leaves those out that are tied.
            count: how many of them there are: 1, or one output weight for each output; in a convolution all entries
                of the last kernel have what its output has.
            labels: (..., K, m).

        Returns:
            (..., K, count), of mean 0 and variance 1 over the neurons; None where they are drawn on their own.
        """
        return None


@register("init", "iid")
@dataclass
class IID(InitialLaw):
    """Independent entries (Section 4.2.1).

    (W_1)_ij ~ (0, tau1^2 / d);  (W_l)_ij and beta ~ (mu2, tau2^2);  biases ~ (mu3, tau3^2): mean, variance. Every
    inner weight has the conditional mean mu2 whatever its neurons are, so that at n = infinity only biases tell the
    neurons of an inner layer apart.

    Attributes:
        law: of the entries, brought to mean 0 and variance 1: ``normal``, ``uniform``, ``rademacher``, or the user's
            own ``package.module:Class`` (:class:`mfrun.networks.laws.Law`).
        tau1: standard deviation of the first layer's weights times sqrt(d).
        mu2, tau2: mean and standard deviation of all other weights.
        mu3, tau3: mean and standard deviation of the biases.
    """

    law: str = "normal"
    tau1: float = math.sqrt(2)
    mu2: float = 1.0
    tau2: float = 0.1
    mu3: float = 0.0
    tau3: float = 0.0

    def __post_init__(self) -> None:
        for key in ("tau1", "tau2", "tau3"):
            value = getattr(self, key)
            if not 0 <= value < math.inf:
                raise ConfigError(key, value, "a standard deviation is a finite number >= 0")
        for key in ("mu2", "mu3"):
            if not math.isfinite(getattr(self, key)):
                raise ConfigError(key, getattr(self, key), "must be a finite number")
        try:
            self.entries = find("law", self.law, "law")()
        except TypeError as error:
            raise ConfigError("law", self.law, f"no law: it cannot be called without arguments ({error})") from error
        if ":" in self.law:
            refuse_unless_a_law(self.entries, self.law)
        self.zero_mean = self.mu2 == 0

    def coordinates(self, l: int, layers: Layers, neuron: Neuron) -> dict[str, int]:
        found = {
            "w": layers.fan_in if l == 1 and self.tau1 > 0 else 0,
            "bias": int(layers.biases and self.tau3 > 0),
            "theta": len(neuron.spread),
            "beta": layers.betas if l == layers.L and self.tau2 > 0 else 0,
        }
        return {name: count for name, count in found.items() if count}

    def first(self, w: Tensor, fan_in: int, scale: float = 1.0) -> Tensor:
        return w.mul_(self.tau1 / math.sqrt(fan_in) * scale)

    def bias(self, z: Tensor, scale: float = 1.0) -> Tensor:
        return z.mul_(self.tau3 * scale).add_(self.mu3)

    def output(self, z: Tensor, scale: float = 1.0) -> Tensor:
        return z.mul_(self.tau2 * scale).add_(self.mu2)

    @property
    def noise(self) -> float:
        return self.tau2

    def inner(self, l: int, above: Tensor | None, below: Tensor | None) -> float:
        return self.mu2
