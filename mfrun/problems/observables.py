"""Test functions phi(y, yhat) of Section 2.2, whose averages over the data the theory predicts.

To add one: a function here (or ``package.module:function`` in the configuration), named in
``evaluation.test_functions``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mfrun.errors import ConfigError
from mfrun.problems.tasks import Task, of_true_class, without_true_class
from mfrun.registry import register


@register("test_function", "mean")
def mean(y: Tensor, yhat: Tensor) -> Tensor:
    """Average of the outputs: (S, B) from (S, n_out, B)."""
    return yhat.mean(-2)


@register("test_function", "mean_square")
def mean_square(y: Tensor, yhat: Tensor) -> Tensor:
    """Average of the squared outputs."""
    return yhat.square().mean(-2)


@register("test_function", "margin")
def margin(y: Tensor, yhat: Tensor) -> Tensor:
    """y yhat for signs; the true class's output less the largest other one for classes.

    Raises:
        ConfigError: regression has no margin.
    """
    if y.dtype == torch.int64:
        return of_true_class(y, yhat) - without_true_class(y, yhat).amax(-2)
    if y.shape[-2] != 1 or not bool(((y == 1) | (y == -1)).all()):
        raise ConfigError("evaluation.test_functions", "margin", f"needs classes, not {Task.REGRESSION.value}")
    return (y * yhat).squeeze(-2)
