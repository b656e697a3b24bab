"""Losses L(y, yhat): the value for each sample, and the derivative in yhat that drives the update.

To add one: subclass :class:`Loss`, ``@register`` it, add ``conf/loss/NAME.yaml``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mfrun.errors import ConfigError
from mfrun.problems.tasks import Task, of_true_class, one_hot, true_rows
from mfrun.registry import register


class Loss(ABC):
    """A loss function of a label and the outputs.

    Attributes:
        tasks: the kinds of labels that it fits.
    """

    tasks: ClassVar[tuple[Task, ...]]

    @abstractmethod
    def value(self, y: Tensor, yhat: Tensor) -> Tensor:
        """L(y, yhat) for each sample: (S, B) from yhat (S, n_out, B), or (B,) from (n_out, B)."""

    @abstractmethod
    def gradient(self, y: Tensor, yhat: Tensor) -> Tensor:
        """d2 L(y, yhat), the derivative in the second argument, shaped like yhat."""


@register("loss", "squared")
@dataclass
class Squared(Loss):
    """(y - yhat)^2, summed over the outputs; class labels stand for unit vectors."""

    tasks = (Task.SIGN, Task.CLASSES, Task.REGRESSION)

    def value(self, y: Tensor, yhat: Tensor) -> Tensor:
        return (yhat - one_hot(y, yhat)).square_().sum(-2)

    def gradient(self, y: Tensor, yhat: Tensor) -> Tensor:
        return torch.sub(yhat, one_hot(y, yhat)).mul_(2)


@register("loss", "cross_entropy")
@dataclass
class CrossEntropy(Loss):
    """-log softmax(yhat)_y."""

    tasks = (Task.CLASSES,)

    def value(self, y: Tensor, yhat: Tensor) -> Tensor:
        return -of_true_class(y, F.log_softmax(yhat, -2))

    def gradient(self, y: Tensor, yhat: Tensor) -> Tensor:
        D = torch.softmax(yhat, -2)
        if y.dtype != torch.int64:
            return D.sub_(y)
        return D.scatter_(-2, true_rows(y, yhat), -1.0, reduce="add")


@register("loss", "logistic")
@dataclass
class Logistic(Loss):
    """log(1 + exp(-y yhat)) for y in {-1, +1}."""

    tasks = (Task.SIGN,)

    def value(self, y: Tensor, yhat: Tensor) -> Tensor:
        return F.softplus(-y * yhat, threshold=40).squeeze(-2)

    def gradient(self, y: Tensor, yhat: Tensor) -> Tensor:
        return torch.sigmoid(-y * yhat).mul_(-y)


@register("loss", "huber")
@dataclass
class Huber(Loss):
    """e^2 / 2 for |e| <= delta, delta (|e| - delta / 2) beyond, e = yhat - y, summed over the outputs."""

    delta: float = 1.0

    tasks = (Task.SIGN, Task.CLASSES, Task.REGRESSION)

    def __post_init__(self) -> None:
        if not 0 < self.delta < float("inf"):
            raise ConfigError("delta", self.delta, "must be positive")

    def value(self, y: Tensor, yhat: Tensor) -> Tensor:
        target = one_hot(y, yhat).expand(yhat.shape)
        return F.huber_loss(yhat, target, reduction="none", delta=self.delta).sum(-2)

    def gradient(self, y: Tensor, yhat: Tensor) -> Tensor:
        return torch.sub(yhat, one_hot(y, yhat)).clamp_(-self.delta, self.delta)
