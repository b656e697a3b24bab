"""Scalings: how the forward multiplier, the initial deviation and the rate of every layer depend on n.

A weight array w_l of a network of width n acts as n^-a w_l, starts with standard deviation tau n^-b, and moves by plain
SGD with the rate alpha xi_l(t) n^-c times the gradient in w_l (the abc-parametrisations of Yang and Hu,
arXiv 2011.14522). Four rows of (a, b, c) make a scaling:

    first         W_1 and the biases of the hidden layers: what does not sum over neurons; n is n_l
    inner         W_2 .. W_L; n is the fan-in n_{l-1} for a and b, and sqrt(n_{l-1} n_l) for c
    output        W_{L+1} = beta; n is n_L
    output_bias   b_{L+1}; n is n_L

Every one of them runs through the mean field network of :mod:`mfrun.networks.dense`, at no cost in its steps. What a
network computes and learns depends only on the products A_l = n^-a w_l and on the rates q_l = n^(-2a - c) at which
gradient descent in w_l moves A_l; its biases' are q'_l. The update of Section 3.1, written with
A_l = p_{l-1} W_l, moves A_l at rate_l p_{l-1} / p_l and b_l at rate_l / p_l. The two are the same for

    p_{l-1} = q_l / q'_l,    rate_l = p_l q'_l,    W_l = n^-a w_l / p_{l-1},    p_0 = p_{L+1} = 1.

The mean field scaling gives p_l = 1/n_l and rate_l = 1. With other scalings p_l is a multiplier that need not sum to 1.

To add a scaling: a YAML file with ``name: powers`` and its rows, or one class here and one YAML file in
``conf/scaling/``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from mfrun.errors import ConfigError
from mfrun.registry import base, register

ROWS = ("first", "inner", "output", "output_bias")
LARGEST = 4.0  # exponent: n^-a stays a number in float32


@dataclass(frozen=True)
class Factors:
    """A scaling at given widths, as numbers; every list but ``p`` has one for each of the L + 1 layers.

    Attributes:
        p: ``scale`` of the measures p_1 .. p_L.
        deviations: n^-b, of w_l.
        units: w_l / W_l, the scaling's own weights by the network's.
        bias_deviations: n^-b, of the biases; the output's in units of the deviation of an average of n_L draws.
        bias_units: n^-a, what the biases are multiplied by.
        rates: factors of the schedule's rates in the update of Section 3.1.
    """

    p: list[float]
    deviations: list[float]
    units: list[float]
    bias_deviations: list[float]
    bias_units: list[float]
    rates: list[float]


@base("scaling")
class Scaling:
    """Rows (a, b, c) of powers of n, see the module.

    Attributes:
        zero_mean: whether weights of non-zero mean are refused, because their sums grow with n.
    """

    first: Sequence[float]
    inner: Sequence[float]
    output: Sequence[float]
    output_bias: Sequence[float]
    zero_mean: ClassVar[bool] = False

    @property
    def is_mean_field(self) -> bool:
        """Whether this is the scaling that has the limit of ``width=inf``."""
        return all(tuple(getattr(self, row)) == getattr(MeanField, row) for row in ROWS)

    def factors(self, widths: Sequence[int]) -> Factors:
        """The scaling of a network with hidden layers of n_1 .. n_L neurons."""
        L = len(widths)
        # n_l to the power 1, as a vector of the exponents of n_1 .. n_L.
        n = dict(enumerate(np.eye(L), 1))
        one = np.zeros(L)
        layers = range(1, L + 2)
        rows = {l: self.first if l == 1 else self.output if l == L + 1 else self.inner for l in layers}
        biases = {l: self.output_bias if l == L + 1 else self.first for l in layers}
        fan = {l: n[max(l - 1, 1)] for l in layers}
        own = {l: n[min(l, L)] for l in layers}
        q = {l: -2 * rows[l][0] * fan[l] - rows[l][2] * (fan[l] + own[l]) / 2 for l in layers}
        q_bias = {l: -(2 * biases[l][0] + biases[l][2]) * own[l] for l in layers}
        p = {0: one, **{l - 1: q[l] - q_bias[l] for l in layers if l > 1}, L + 1: one}

        def number(exponents: np.ndarray) -> float:
            # Reciprocals, not negative powers: 1/n must be what the uniform measure has, to the last digit.
            powers = zip(widths, exponents.tolist(), strict=True)
            return math.prod(k**e if e >= 0 else 1.0 / k**-e for k, e in powers)

        return Factors(
            p=[number(p[l]) for l in range(1, L + 1)],
            deviations=[number(-rows[l][1] * fan[l]) for l in layers],
            units=[number(p[l - 1] + rows[l][0] * fan[l]) for l in layers],
            bias_deviations=[number((0.5 * (l > L) - biases[l][1]) * own[l]) for l in layers],
            bias_units=[number(-biases[l][0] * own[l]) for l in layers],
            rates=[number(p[l] + q_bias[l]) for l in layers],
        )


@register("scaling", "mean_field")
@dataclass
class MeanField(Scaling):
    """The paper's: sums over neurons are averages, gradients are multiplied by the widths on both sides (Section 3.1).

    The output bias starts as the average of n_L draws, see :mod:`mfrun.networks.dense`.
    """

    first = (0.0, 0.0, -1.0)
    inner = (1.0, 0.0, -2.0)
    output = (1.0, 0.0, -1.0)
    output_bias = (0.0, 0.5, 0.0)


@register("scaling", "ntk")
@dataclass
class NTK(Scaling):
    """The parametrisation of the neural tangent kernel (Jacot, Gabriel and Hongler, arXiv 1806.07572).

    Its limit is a kernel machine: the output learns while every weight and pre-activation stays where it started.
    """

    first = (0.0, 0.0, 0.0)
    inner = (0.5, 0.0, 0.0)
    output = (0.5, 0.0, 0.0)
    output_bias = (0.0, 0.0, 0.0)
    zero_mean = True


@register("scaling", "standard")
@dataclass
class Standard(Scaling):
    """What ``nn.Linear`` with initial deviations ~ 1/sqrt(fan-in) and plain SGD at one rate do.

    There is no limit at a fixed rate: a step changes the output by O(n).
    """

    first = (0.0, 0.0, 0.0)
    inner = (0.0, 0.5, 0.0)
    output = (0.0, 0.5, 0.0)
    output_bias = (0.0, 0.0, 0.0)
    zero_mean = True


@register("scaling", "powers")
@dataclass
class Powers(Scaling):
    """The user's own rows; by default those of the mean field scaling.

    Attributes:
        first: (a, b, c) of W_1 and the hidden biases.
        inner: (a, b, c) of W_2 .. W_L.
        output: (a, b, c) of W_{L+1}.
        output_bias: (a, b, c) of b_{L+1}.
    """

    first: list[float] = field(default_factory=lambda: list(MeanField.first))
    inner: list[float] = field(default_factory=lambda: list(MeanField.inner))
    output: list[float] = field(default_factory=lambda: list(MeanField.output))
    output_bias: list[float] = field(default_factory=lambda: list(MeanField.output_bias))

    def __post_init__(self) -> None:
        for row in ROWS:
            abc = getattr(self, row)
            if len(abc) != 3 or not all(abs(e) <= LARGEST for e in abc):
                raise ConfigError(row, abc, f"three exponents [a,b,c] between -{LARGEST:g} and {LARGEST:g}")
