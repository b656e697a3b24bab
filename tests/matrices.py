"""Factors of matrix products, for properties that hold for all of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor

# What a product is added to.
STARTS = st.sampled_from(["none", "out", "column"])


@st.composite
def factors(draw: Callable, *dtypes: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A (m, k), B (k, n), a column (m, 1) and an array (m, n); or stacks of them. A and B may be transposed views."""
    m, k, n = draw(st.tuples(*[st.integers(1, 20)] * 3))
    stack, flip = draw(st.sampled_from([0, 1, 3])), draw(st.tuples(st.booleans(), st.booleans()))
    dtype, g = draw(st.sampled_from(dtypes)), torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def randn(rows: int, columns: int, flipped: bool = False) -> Tensor:
        size = (columns, rows) if flipped else (rows, columns)
        array = torch.randn((stack, *size) if stack else size, generator=g, dtype=dtype)
        return array.mT if flipped else array

    return randn(m, k, flip[0]), randn(k, n, flip[1]), randn(m, 1), randn(m, n)
