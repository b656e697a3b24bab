"""Random generators that are functions of a purpose and a key, so that nothing about randomness needs to be saved."""

from __future__ import annotations

import hashlib

import torch


def entropy(purpose: str, *key: int) -> int:
    """A seed of 63 bits for this purpose and key; whatever differs in them gives an unrelated stream."""
    return int.from_bytes(hashlib.sha256(repr((purpose, *map(int, key))).encode()).digest()[:8]) >> 1


def generator(purpose: str, *key: int) -> torch.Generator:
    """A CPU generator seeded with :func:`entropy`, of which torch takes the low 32 bits: of 10^5 streams some two are
    likely to be the same, and no one is likely to be any given other."""
    return torch.Generator().manual_seed(entropy(purpose, *key))
