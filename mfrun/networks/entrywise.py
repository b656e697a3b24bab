"""Functions of the user's own that act entry by entry, tried on small arrays before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mfrun.errors import ConfigError
from mfrun.registry import reason


def refuse_unless_entrywise(key: str, name: str, function: Callable[..., Tensor], arrays: tuple[Tensor, ...]) -> None:
    """Try a function and its derivatives on arrays (3, 1) or (3, 4), together (3, 4).

    Args:
        key: that names the function, for the message.
        name: of the function.
        function: of the arrays.
        arrays: float64.

    Raises:
        ConfigError: it fails, gives another shape, or an entry depends on more than the entries at its own place.
    """
    try:
        function(*arrays)  # What cannot take arrays fails before torch warns of its derivative.
        whole, pull, *_ = torch.func.vjp(function, *arrays)
        found = tuple(whole.shape)
        pull(whole)
        part = function(*(array[1:2, -1:] for array in arrays))
    except Exception as error:  # It is the user's own code.
        raise ConfigError(key, name, f"fails ({type(error).__name__}: {reason(error)})") from error
    if found != (3, 4):
        raise ConfigError(key, name, f"must act entry by entry; here {found} from (3, 4)")
    if not torch.allclose(whole[1:2, -1:], part, equal_nan=True):
        raise ConfigError(key, name, "must act entry by entry; here entries depend on one another")


def refuse_wrong_derivatives(
    key: str,
    name: str,
    value: Callable[..., Tensor],
    pull: Callable[..., Sequence[Tensor]],
    arrays: tuple[Tensor, ...],
    shape: tuple[int, ...] | None = None,
) -> None:
    """Hold the derivatives of a class of the user's own to differences of its values.

    Args:
        key: that names the class, for the message.
        name: of the class.
        value: of the arrays.
        pull: of g and the arrays: the derivative of sum(g * value) in each array, or what sums to it.
        arrays: float64.
        shape: of g, which broadcasts against the values; by default theirs.

    Raises:
        ConfigError: it fails, or they differ, by how much.
    """
    random = torch.Generator().manual_seed(1)
    try:
        g = torch.randn(shape or value(*arrays).shape, generator=random, dtype=torch.float64)
        found = pull(g, *arrays)
        for place, (array, product) in enumerate(zip(arrays, found, strict=True)):
            step = 1e-6 * torch.randn(array.shape, generator=random, dtype=torch.float64)
            above, below = (value(*arrays[:place], array + s * step, *arrays[place + 1 :]) for s in (1, -1))
            true, said = float((g * (above - below) / 2).sum()), float((product * step).sum())
            scale = float((g * (above - below) / 2).abs().sum()) + 1e-12
            if not abs(said - true) < 1e-4 * scale:
                off = abs(said - true) / scale
                why = f"its derivative in argument {place + 1} is not that of its value: off by {off:.2g} of its size"
                raise ConfigError(key, name, why)
    except ConfigError:
        raise
    except Exception as error:  # It is the user's own code.
        raise ConfigError(key, name, f"fails ({type(error).__name__}: {reason(error)})") from error
