"""Functions of the user's own that act entry by entry, tried on small arrays before anything is trained."""

from __future__ import annotations

from collections.abc import Callable

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
