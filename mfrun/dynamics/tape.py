"""A step of a small network written down once, and replayed without Python in between.

A step of 50 neurons is some thirty operations of a microsecond each, and asking torch for one takes as long. So, as a
CUDA graph does on a GPU, a tape records which operations one step asks torch for, on which arrays, and what it has
recorded is done again and again by one compiled call (:mod:`mfrun.dynamics.replay`). The step itself is written in one
place, the networks' forward pass and update; what the tape knows is torch's vocabulary, not the dynamics. An operation
that it does not know, and a product that is large, is asked of torch again at each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mfrun.dynamics import replay
from mfrun.networks.products import SMALL

_aten = torch.ops.aten
# Multiplications up to which OpenBLAS does not pack the factors of a product.
UNPACKED = 1_000_000
_PRODUCTS = (_aten.addmm.out, _aten.baddbmm.out)
# Memory that the step takes, and that stays its own.
_EMPTY = (_aten.empty.memory_format, _aten.empty_like.default, _aten.new_empty.default, _aten.empty_strided.default)
# A call that asks torch again.
Call = Callable[[], object]


class NotRecordable(Exception):
    """A step asks for something that a tape cannot repeat."""


@dataclass
class Instruction:
    """What :mod:`mfrun.dynamics.replay` does at once.

    Attributes:
        code: which operation.
        out, a, b: the arrays.
        sizes: up to eight integers.
        numbers: up to two.
    """

    code: int
    out: Tensor
    a: Tensor
    b: Tensor | None = None
    sizes: Sequence[int] = ()
    numbers: Sequence[float] = ()

    def row(self) -> list[int]:
        """Integers of the compiled loop."""
        found = [self.code, *(0 if t is None else t.data_ptr() for t in (self.out, self.a, self.b)), *self.sizes]
        return found + [0] * (replay.WIDTH - len(found))


class Tape:
    """Instructions and calls in the order of a step.

    Args:
        recorded: what a step did.
        kept: arrays that it did it with.
    """

    def __init__(self, recorded: Sequence[Instruction | Call], kept: list[Tensor]) -> None:
        # The arrays whose addresses the loop has.
        self._kept = (kept, recorded)
        self._parts: list[tuple[np.ndarray, np.ndarray] | Call] = []
        run: list[Instruction] = []
        for one in [*recorded, None]:
            if isinstance(one, Instruction):
                run.append(one)
                continue
            if run:
                numbers = [[*i.numbers, 0.0, 0.0][:2] for i in run]
                self._parts.append((np.array([i.row() for i in run]), np.array(numbers, dtype=np.float32)))
                run = []
            if one is not None:
                self._parts.append(one)

    @property
    def compiled(self) -> bool:
        """Whether all of it is, so that Python is not needed at all."""
        return len(self._parts) == 1 and isinstance(self._parts[0], tuple)

    def replay(self, steps: int) -> None:
        """Do so many steps."""
        if self.compiled:
            steps, times = 1, steps
        else:
            times = 1
        for _ in range(steps):
            for part in self._parts:
                if isinstance(part, tuple):
                    replay.replay(*part, times)
                else:
                    part()


@dataclass
class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Does what is asked of torch, and writes it down."""

    largest: float
    recorded: list[Instruction | Call] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled by torch here, and to tell it so would import its compiler, which takes seconds.
        return False

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = op(*args, **kwargs)
        outs = [found] if isinstance(found, Tensor) else list(found) if isinstance(found, tuple) else []
        if not outs or not all(isinstance(t, Tensor) for t in outs):
            raise NotRecordable(str(op))
        given = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
        # The memory has to stay where it is.
        self.kept += [*given, *outs]
        memory = {t.untyped_storage().data_ptr() for t in given}
        if not op._schema.is_mutable and all(t.untyped_storage().data_ptr() in memory for t in outs):
            return found  # A view moves nothing.
        if op in _EMPTY:
            return found
        instructions = None
        large = op in _PRODUCTS and math.prod(outs[0].shape[-2:]) * args[1].shape[-1] > self.largest
        if len(outs) == 1 and op in _KNOWN and outs[0].is_contiguous() and not large:
            instructions = _KNOWN[op](outs[0], *args, **{k: v for k, v in kwargs.items() if not isinstance(v, Tensor)})
        self.recorded += [_again(op, args, kwargs, outs)] if instructions is None else instructions
        return found


def record(step: Callable[[], object], largest: float = SMALL) -> Tape:
    """Do a step and write it down.

    Args:
        step: what to do.
        largest: multiplications up to which a product is not left to torch.

    Raises:
        NotRecordable: it depends on values that it reads.
    """
    recorder = _Recorder(largest)
    with recorder:
        step()
    return Tape(recorder.recorded, recorder.kept)


def _again(op: Any, args: Any, kwargs: Any, outs: list[Tensor]) -> Call:
    if op._schema.is_mutable:
        return lambda: op(*args, **kwargs)

    def call() -> None:
        found = op(*args, **kwargs)
        for old, new in zip(outs, [found] if isinstance(found, Tensor) else found, strict=True):
            old.copy_(new)

    return call


# --- What the tape knows. Each function gives the instructions of one of torch's operations on contiguous ``out``, or
# --- None where its arrays are not of the kind that the compiled loop takes.

Known = Callable[..., "list[Instruction] | None"]
_KNOWN: dict[Any, Known] = {}


def _knows(*ops: Any) -> Callable[[Known], Known]:
    def enter(function: Known) -> Known:
        _KNOWN.update(dict.fromkeys(ops, function))
        return function

    return enter


def _plain(*arrays: Any) -> bool:
    """Whether all are contiguous float32 arrays."""
    return all(isinstance(t, Tensor) and t.dtype == torch.float32 and t.is_contiguous() for t in arrays)


@_knows(*_PRODUCTS)
def _product(out: Tensor, start: Tensor, A: Tensor, B: Tensor, **scalars: float) -> list[Instruction] | None:
    if out.dtype != torch.float32 or out[..., :1, :1].numel() * out.shape[-2] * out.shape[-1] == 0:
        return None
    m, n, k = *out.shape[-2:], A.shape[-1]
    alpha, beta = float(scalars.get("alpha", 1)), float(scalars.get("beta", 1))
    found = []
    if beta and start.data_ptr() != out.data_ptr():
        spread = _spread(out, start)
        if spread is None:
            return None
        found.append(spread)
    members = [(out, A, B)] if out.dim() == 2 else list(zip(out, A, B, strict=True))
    for o, a, b in members:
        (left, flip_left), (right, flip_right) = _columns(b), _columns(a)
        if left == 0 or right == 0 or not o.is_contiguous():
            return None
        if flip_left and n > 1 and b.mT.is_contiguous() and m * n * k <= UNPACKED:
            # Small factors are multiplied where they lie. That takes half as long again where this one has to be
            # flipped on the way, and to flip it first takes a tenth.
            b, left, flip_left, turned = torch.empty(b.shape, dtype=b.dtype), n, 0, b.mT
            found.append(Instruction(replay.TURN, b, turned, None, turned.shape))
        if n == 1 and beta:
            # The array as columns: (k, m) where it is not flipped.
            shape = (m, k) if flip_right else (k, m)
            found.append(Instruction(replay.SUMS, o, a, b, (*shape, right, 1, 0, 0, 1 - flip_right), (alpha, beta)))
        else:
            sizes = (n, m, k, left, right, n, flip_left, flip_right)
            found.append(Instruction(replay.PRODUCT, o, b, a, sizes, (alpha, beta)))
    return found


def _columns(A: Tensor) -> tuple[int, int]:
    """The leading dimension of A, read by BLAS as A^T in column-major order, and whether it has to be flipped."""
    rows, columns = A.shape
    if A.stride(1) == 1 and (A.stride(0) >= columns or rows == 1):
        return max(A.stride(0), columns), 0
    if A.stride(0) == 1 and (A.stride(1) >= rows or columns == 1):
        return max(A.stride(1), rows), 1
    return 0, 0


def _strides(out: Tensor, x: Tensor) -> tuple[int, int, int, int] | None:
    """(rows, columns, down, across) with which x, broadcast, is read beside out."""
    if x.dtype != torch.float32:
        return None
    wide = x.expand(out.shape)
    columns = out.shape[-1] if out.dim() else 1
    across = (wide.stride(-1) if out.dim() else 0) if columns > 1 else 1
    rows = out.numel() // max(columns, 1)
    if across not in (0, 1) or rows == 0:
        return None
    outer = wide.flatten(0, -2) if out.dim() > 1 else wide.unsqueeze(0)
    if out.dim() > 1 and outer.untyped_storage().data_ptr() != x.untyped_storage().data_ptr():
        return None
    return rows, columns, outer.stride(0) if rows > 1 else 0, across


def _spread(out: Tensor, x: Tensor) -> Instruction | None:
    sizes = _strides(out, x)
    return None if sizes is None else Instruction(replay.COPY, out, x, None, sizes)


@_knows(_aten.copy_.default)
def _copy(out: Tensor, target: Tensor, source: Tensor, non_blocking: bool = False) -> list[Instruction] | None:
    found = _spread(out, source) if out.dtype == torch.float32 else None
    return None if found is None else [found]


@_knows(_aten.mul.out, _aten.mul.Tensor, _aten.mul_.Tensor)
def _mul(out: Tensor, a: Tensor, b: Any) -> list[Instruction] | None:
    if not _plain(out, a) or a.shape != out.shape:
        return None
    if not isinstance(b, Tensor):
        return [Instruction(replay.SCALE, out, a, None, (out.numel(),), (b,))]
    sizes = _strides(out, b)
    return None if sizes is None else [Instruction(replay.TIMES, out, a, b, sizes)]


@_knows(_aten.sub.Tensor, _aten.sub_.Tensor)
def _sub(out: Tensor, a: Tensor, b: Any, alpha: float = 1) -> list[Instruction] | None:
    if not _plain(out, a) or a.shape != out.shape or alpha != 1:
        return None
    if not isinstance(b, Tensor):
        return [Instruction(replay.SHIFT, out, a, None, (out.numel(),), (-b,))]
    return [Instruction(replay.MINUS, out, a, b, (out.numel(),))] if _plain(b) and b.shape == out.shape else None


@_knows(_aten.add_.Tensor)
def _add(out: Tensor, a: Tensor, b: Any, alpha: float = 1) -> list[Instruction] | None:
    one = out.dtype == torch.int64 and out.numel() == 1 and not isinstance(b, Tensor) and b == alpha == 1
    return [Instruction(replay.COUNT, out, a)] if one else None


def _entrywise(code: int, *numbers: float) -> Known:
    """Of one array, or of two of one shape."""

    def known(out: Tensor, a: Tensor, b: Tensor | None = None) -> list[Instruction] | None:
        fits = _plain(out, a) and (b is None or _plain(b))
        return [Instruction(code, out, a, b, (out.numel(),), numbers)] if fits else None

    return known


def _at_zero(known: Known) -> Known:
    """The same with a threshold, where that is 0."""
    return lambda out, *given: known(out, *given[:-1]) if given[-1] == 0 else None


_KNOWN |= {
    _aten.neg.default: _entrywise(replay.SCALE, -1.0),
    _aten.clamp_min.out: _at_zero(_entrywise(replay.RELU)),
    _aten.threshold_backward.grad_input: _at_zero(_entrywise(replay.RELU_BACKWARD)),
    _aten.tanh.out: _entrywise(replay.TANH),
    _aten.tanh_backward.grad_input: _entrywise(replay.TANH_BACKWARD),
    _aten.sigmoid.default: _entrywise(replay.SIGMOID),
    _aten.sigmoid.out: _entrywise(replay.SIGMOID),
    _aten.sigmoid_backward.grad_input: _entrywise(replay.SIGMOID_BACKWARD),
}


@_knows(_aten._softmax.default)
def _softmax(out: Tensor, x: Tensor, axis: int, half: bool) -> list[Instruction] | None:
    if not _plain(out, x) or out.dim() != 2 or axis not in (0, -2):
        return None
    return [Instruction(replay.SOFTMAX, out, x, None, out.shape)]


@_knows(_aten.scatter_.value_reduce)
def _scatter(
    out: Tensor, x: Tensor, axis: int, index: Tensor, value: float, *, reduce: str
) -> list[Instruction] | None:
    fits = _plain(out) and out.dim() == 2 and axis in (0, -2) and reduce == "add"
    if not fits or not index.is_contiguous() or index.shape != (1, out.shape[1]):
        return None
    return [Instruction(replay.SCATTER, out, index, None, (out.shape[1],), (value,))]


@_knows(_aten.index_select.default)
def _rows(out: Tensor, a: Tensor, axis: int, index: Tensor) -> list[Instruction] | None:
    if axis != 0 or not a.is_contiguous() or not index.is_contiguous() or index.dtype != torch.int64:
        return None
    return [Instruction(replay.ROWS, out, a, index, (index.numel(), a[0].numel() * a.itemsize))]


@_knows(_aten._to_copy.default)
def _pixels(out: Tensor, x: Tensor, **asked: Any) -> list[Instruction] | None:
    if x.dtype != torch.uint8 or out.dtype != torch.float32 or not x.is_contiguous():
        return None
    return [Instruction(replay.PIXELS, out, x, None, (out.numel(),))]
