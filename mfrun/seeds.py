"""Random generators that are functions of a key, so that nothing about randomness needs to be saved."""

from __future__ import annotations

import numpy as np
import torch


def generator(*key: int) -> torch.Generator:
    """A CPU generator for this key alone; keys that differ anywhere give unrelated streams."""
    state = np.random.SeedSequence(key).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))
