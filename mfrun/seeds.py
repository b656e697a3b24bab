"""Random generators that are functions of a purpose and a key, so that nothing about randomness needs to be saved."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def entropy(purpose: str, *key: int) -> int:
    """A seed of 63 bits for this purpose and key; whatever differs in them gives an unrelated stream."""
    return int.from_bytes(hashlib.sha256(repr((purpose, *map(int, key))).encode()).digest()[:8]) >> 1


def generator(purpose: str, *key: int) -> torch.Generator:
    """A CPU generator seeded with :func:`entropy`, of which torch takes the low 32 bits: of 10^5 streams some two are
    likely to be the same, and no one is likely to be any given other."""
    return torch.Generator().manual_seed(entropy(purpose, *key))


@contextmanager
def alike() -> Iterator[None]:
    """What draws from the global chance of Python, NumPy or torch draws the same here in every process; what comes
    after it draws as if nothing had been drawn."""
    python, array, tensor = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        torch.default_generator.manual_seed(0)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)  # noqa: NPY002
        torch.set_rng_state(tensor)
