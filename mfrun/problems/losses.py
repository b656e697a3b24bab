"""Losses L(y, yhat): the value for each sample, and the derivative in yhat that drives the update.

To add one: subclass :class:`Loss`, ``@register`` it, add ``conf/loss/NAME.yaml``. A plain function of (y, yhat),
``loss.name=package.module:name``, has its derivative taken by autograd.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mfrun.errors import ConfigError
from mfrun.problems.tasks import Task, of_true_class, one_hot, true_rows
from mfrun.registry import base, of_functions, register


@base("loss")
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


@of_functions("loss")
class OfFunction(Loss):
    """A function of (y, yhat) that gives a number for each sample; autograd takes its derivative in yhat.

    Args:
        function: of labels as the task has them and outputs (S, n_out, B) or (n_out, B): values (S, B) or (B,).
        name: what it is called in the configuration.
    """

    tasks = (Task.SIGN, Task.CLASSES, Task.REGRESSION)

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], name: str) -> None:
        self._function, self._name = function, name

    def value(self, y: Tensor, yhat: Tensor) -> Tensor:
        values = self._function(y, yhat)
        expected = (*yhat.shape[:-2], yhat.shape[-1])
        if tuple(values.shape) != expected:
            raise ConfigError("loss.name", self._name, misshapen(expected, yhat, values))
        return values

    def gradient(self, y: Tensor, yhat: Tensor) -> Tensor:
        return _by_autograd(self, y, yhat)


def misshapen(expected: tuple[int, ...], yhat: Tensor, values: Tensor) -> str:
    """What is wrong with values of another shape."""
    why = f"must return a number for each sample, {expected}, from yhat {tuple(yhat.shape)}"
    return f"{why}; here {tuple(values.shape)}"


def _by_autograd(loss: Loss, y: Tensor, yhat: Tensor) -> Tensor:
    with torch.enable_grad():
        at = yhat.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss.value(y, at.clone()).sum(), at)
    return gradient


def refuse_unless_it_fits(loss: Loss, name: str, task: Task, n_out: int, stacked: bool = False) -> None:
    """Try a loss of the user's own on labels of the task, and hold a derivative of its own to autograd's.

    Args:
        loss: to try.
        name: as the configuration has it.
        task: what the labels are.
        n_out: numbers in them.
        stacked: whether each of the stacked networks has labels of its own in training, (S, n_out, B).

    Raises:
        ConfigError: it fails, gives another shape, the derivative is wrong, by how much, or a number of it depends on
            other networks or samples than its own.
    """
    g = torch.Generator().manual_seed(0)
    yhat = torch.randn((2, n_out, 5), generator=g, dtype=torch.float64)
    if task is Task.CLASSES:
        y = torch.arange(5) % n_out
    else:
        y = torch.randn((n_out, 5), generator=g, dtype=torch.float64)
        y = torch.tensor([1.0, -1, -1, 1, 1]).to(y).expand(y.shape) if task is Task.SIGN else y
    given = yhat.clone()
    try:
        values, found, true = loss.value(y, yhat), loss.gradient(y, yhat), _by_autograd(loss, y, given)
    except ConfigError:
        raise
    except Exception as error:  # It is the user's own code.
        why = f"fails on {task.value} labels ({type(error).__name__}: {str(error).splitlines()[0]})"
        raise ConfigError("loss.name", name, why) from error
    if tuple(values.shape) != (2, 5):
        raise ConfigError("loss.name", name, misshapen((2, 5), yhat, values))
    if not torch.equal(yhat, given):
        raise ConfigError("loss.name", name, "changes yhat, which others read after it")
    off = float((found - true).abs().max() / true.abs().max().clamp_min(1e-12))
    if not off < 1e-6:
        raise ConfigError("loss.name", name, f"its gradient is not the derivative of its value: off by {off:.2g}")
    # Training and evaluation lay the same outputs out in several ways, in which axes of equal length can be mistaken.
    for what, *parts in (
        ("one network, yhat of (n_out, B)", y, yhat[0], values[0], true[0]),
        ("some of the samples", y[..., :3], yhat[..., :3], values[..., :3], true[..., :3]),
        ("a sample alone", y[..., :1], yhat[0, :, :1], values[0, :1], true[0, :, :1]),
    ):
        _hold(loss, name, what, *parts)
    if stacked:
        own = torch.stack([y, y.roll(1, -1)])
        each = [(loss.value(one, yhat[s]), loss.gradient(one, yhat[s])) for s, one in enumerate(own)]
        layout = "(S, B)" if task is Task.CLASSES else "(S, n_out, B)"
        what = f"labels of each network's own, y of {layout} (replicate_data=independent)"
        _hold(loss, name, what, own, yhat, torch.stack([v for v, _ in each]), torch.stack([g for _, g in each]))


def _hold(loss: Loss, name: str, what: str, y: Tensor, yhat: Tensor, values: Tensor, gradient: Tensor) -> None:
    """Raises ConfigError where the loss of some outputs is not what it was of the same among others."""
    try:
        found = [loss.value(y, yhat), loss.gradient(y, yhat)]
    except Exception as error:  # It is the user's own code.
        why = f"fails on {what} ({type(error).__name__}: {str(error).splitlines()[0]})"
        raise ConfigError("loss.name", name, why) from error
    for one, true in zip(found, (values, gradient), strict=True):
        if one.shape != true.shape or not torch.allclose(one, true, rtol=1e-5, atol=1e-6):
            why = f"gives other numbers on {what}: that of a sample is to depend on its label and its network's outputs"
            raise ConfigError("loss.name", name, why)
