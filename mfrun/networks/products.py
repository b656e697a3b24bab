"""Matrix products into preallocated memory, each by the library that is fastest for its size.

Every product of a network is prepared once for its fixed arrays, and then called at each step with its scale alone.
The libraries agree to rounding. Which of them serves a product depends on its shape, and from 256 neurons on by what a
probe of both finds on the machine at the start, which the run's log names.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# A product that awaits its scale alpha, and how to make one.
Prepared = Callable[[float], Any]
Route = Callable[[Tensor, Tensor, Tensor, Tensor | None], Prepared]

# torch's switches, which its type hints do not know.
_cpu: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
_gpu: Any = torch.backends.cuda.matmul
_cudnn: Any = torch.backends.cudnn

# Multiplications up to which BLAS, called directly on one core, beats torch's products on any number of cores.
SMALL = 1_500_000
# How much faster oneDNN has to be than torch's own choice, and how exact; what AMX hardware rounds is not.
WORTH_IT, EXACT = 1.3, 1e-5


@dataclass(frozen=True)
class Products:
    """How the products of a network are computed.

    Attributes:
        bf16: round both factors to bfloat16 first, and add up in float32, as the hardware units for it do.
        library: that serves the large ones, for the log.
        direct: whether BLAS is called directly for the small ones, past torch, so that torch does not see them.
    """

    bf16: bool = False
    library: str = "torch"
    direct: bool = True

    def prepare(self, out: Tensor, A: Tensor, B: Tensor, start: Tensor | None = None) -> Prepared:
        """A function of alpha that writes start + alpha A B into ``out``.

        Args:
            out: (m, n) or (S, m, n), contiguous.
            A: (m, k) or (S, m, k), contiguous or the transpose of a contiguous array.
            B: (k, n) or (S, k, n), likewise.
            start: what the product is added to: ``out`` itself, a column (m, 1) or (S, m, 1), or None for zero.
        """
        if self.bf16:
            return _rounded(out, A, B, start)
        # torch shares the members of a stack out among its threads.
        if self.direct and out.device.type == "cpu" and out.dim() == 2 and out.numel() * A.shape[1] <= SMALL:
            return _blas(out, A, B, start)
        return _torch(out, A, B, start)

    def multiply(self, out: Tensor, A: Tensor, B: Tensor, alpha: float, start: Tensor | None = None) -> None:
        """The product at once, for arrays that change from call to call."""
        (_rounded if self.bf16 else _torch)(out, A, B, start)(alpha)


def arrange(precision: str, device: torch.device, largest: int) -> Products:
    """Set torch up for a run's products, and for all others of the process: its switches are not a thread's own.

    Args:
        precision: ``float32``, or what a GPU offers beside it: ``tf32`` or ``bf16``.
        device: where the run's networks live.
        largest: neurons of the widest layer.

    Returns:
        How to compute them.
    """
    _cpu.fp32_precision = "ieee"
    if device.type == "cuda":
        _gpu.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        # Convolutions have a switch of their own; and the same command is to give the same digits.
        _cudnn.conv.fp32_precision = _gpu.fp32_precision
        _cudnn.deterministic = True
        return Products(bf16=precision == "bf16", library="cuBLAS")
    library = "MKL" if torch.backends.mkl.is_available() else "BLAS"  # type: ignore[no-untyped-call]
    if precision == "bf16":
        # The factors are bfloat16 numbers already; hardware that has units for them may use them.
        _cpu.fp32_precision = "bf16"
        return Products(bf16=True, library="oneDNN")
    if largest >= 256 and _onednn_pays(torch.get_num_threads()):
        _cpu.fp32_precision = "bf16"
        library = "oneDNN"
    return Products(library=library)


@contextmanager
def switches_kept() -> Iterator[None]:
    """What a run's products ask of torch is the run's; the program around it has its own switches again afterwards."""
    switches = [(_cpu, "fp32_precision"), (_gpu, "fp32_precision"), (_cudnn.conv, "fp32_precision")]
    switches.append((_cudnn, "deterministic"))
    before = [getattr(of, name) for of, name in switches]
    try:
        yield
    finally:
        for (of, name), value in zip(switches, before, strict=True):
            setattr(of, name, value)


@functools.cache
def _onednn_pays(threads: int) -> bool:
    """Whether oneDNN is much faster here than torch's choice, and as exact: so on CPUs with AVX-512 but without AMX
    that MKL takes for older ones."""
    generator = torch.Generator().manual_seed(0)
    A, B = (torch.randn((512, k), generator=generator, dtype=torch.float32) for k in (512, 128))
    exact, out = A.double() @ B.double(), torch.empty((512, 128), dtype=torch.float32)
    before, seconds = _cpu.fp32_precision, {"ieee": math.inf, "bf16": math.inf}
    try:
        # In turns, as other work on the core slows both: the runs of a sweep come to one answer, and one set of digits.
        for _ in range(24):
            for setting, least in seconds.items():
                _cpu.fp32_precision = setting
                begin = time.perf_counter()
                torch.mm(A, B, out=out)
                seconds[setting] = min(least, time.perf_counter() - begin)
        error = float((out.double() - exact).norm() / exact.norm())
    finally:
        _cpu.fp32_precision = before
    return error < EXACT and seconds["ieee"] > WORTH_IT * seconds["bf16"]


def routes(out: Tensor) -> list[Route]:
    """The libraries that can write into ``out`` exactly."""
    return [_torch, _blas] if out.device.type == "cpu" else [_torch]


def _torch(out: Tensor, A: Tensor, B: Tensor, start: Tensor | None) -> Prepared:
    """MKL or oneDNN on most CPUs, cuBLAS on a GPU."""
    product = torch.baddbmm if out.dim() == 3 else torch.addmm
    if start is None:
        return lambda alpha: product(out, A, B, beta=0, alpha=alpha, out=out)
    return lambda alpha: product(start, A, B, alpha=alpha, out=out)


def _rounded(out: Tensor, A: Tensor, B: Tensor, start: Tensor | None) -> Prepared:
    """Of factors rounded to bfloat16."""

    def product(alpha: float) -> None:
        _torch(out, A.bfloat16().to(out.dtype), B.bfloat16().to(out.dtype), start)(alpha)

    return product


def _blas(out: Tensor, A: Tensor, B: Tensor, start: Tensor | None) -> Prepared:
    """SciPy's BLAS, whose calls cost least."""
    if out.dim() == 3:
        starts = [None] * len(out) if start is None else start
        parts = [_blas(o, a, b, o if start is out else s) for o, a, b, s in zip(out, A, B, starts, strict=True)]

        def each(alpha: float) -> None:
            for part in parts:
                part(alpha)

        return each
    from scipy.linalg import blas

    double = out.dtype == torch.float64
    # BLAS sees a row-major array as its transpose: out^T = start^T + alpha B^T A^T.
    c, beta = out.numpy().T, 0.0 if start is None else 1.0
    if B.shape[1] == 1 and start is out:
        a, flip = _columns(A)
        gemv = blas.dgemv if double else blas.sgemv
        return functools.partial(gemv, a=a, x=B.numpy()[:, 0], beta=beta, y=c[0], trans=flip, overwrite_y=1)
    (left, flip_left), (right, flip_right) = _columns(B.mT), _columns(A.mT)
    gemm = functools.partial(
        blas.dgemm if double else blas.sgemm,
        a=left,
        b=right,
        beta=beta,
        c=c,
        trans_a=flip_left,
        trans_b=flip_right,
        overwrite_c=1,
    )
    if start is None or start is out:
        return gemm
    target, column = out.numpy(), start.numpy()

    def onto_column(alpha: float) -> None:
        np.copyto(target, column)
        gemm(alpha)

    return onto_column


def _columns(A: Tensor) -> tuple[np.ndarray, int]:
    """A in column-major order, or its transpose and 1, for BLAS to flip."""
    array = A.numpy()
    return (array, 0) if array.flags.f_contiguous else (array.T, 1)
