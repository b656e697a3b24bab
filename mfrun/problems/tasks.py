"""The kinds of labels, and how a batch of them is laid out.

Outputs are columns, yhat of shape (S, n_out, B); labels broadcast against them.
"""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor


class Task(Enum):
    """What a label is.

    SIGN: y in {-1, +1}, one output, float (1, B); an error is y yhat < 0 (Section 4.2.1), or NaN.
    CLASSES: y in {0, .., C-1}, C outputs, int64 (B,); an error is an output other than y that is largest.
    REGRESSION: y in R^m, m outputs, float (m, B); no classification error.
    """

    SIGN = "sign"
    CLASSES = "classes"
    REGRESSION = "regression"

    def errors(self, y: Tensor, yhat: Tensor) -> Tensor | None:
        """1 where a sample is misclassified, else 0: (S, B) bool; None for regression."""
        if self is Task.SIGN:
            return (y * yhat >= 0).logical_not_().squeeze(-2)
        if self is Task.CLASSES:
            return (yhat.argmax(-2) != y) | yhat.isnan().any(-2)
        return None


def one_hot(y: Tensor, yhat: Tensor) -> Tensor:
    """Labels as targets for yhat: class indices (B,) or (S, B) become columns, anything else is a target already."""
    if y.dtype != torch.int64:
        return y
    target = torch.zeros((*y.shape[:-1], *yhat.shape[-2:]), dtype=yhat.dtype, device=yhat.device)
    return target.scatter_(-2, y.unsqueeze(-2), 1.0)


def of_true_class(y: Tensor, yhat: Tensor) -> Tensor:
    """yhat_y, the output that belongs to the label: (S, B) from (S, C, B)."""
    return yhat.gather(-2, true_rows(y, yhat)).squeeze(-2)


def without_true_class(y: Tensor, yhat: Tensor) -> Tensor:
    """yhat with the label's output set to -infinity."""
    return yhat.scatter(-2, true_rows(y, yhat), float("-inf"))


def true_rows(y: Tensor, yhat: Tensor) -> Tensor:
    """The row of yhat that each label names, as an index for gather and scatter: (S, 1, B)."""
    return y.expand(*yhat.shape[:-2], y.shape[-1]).unsqueeze(-2)
