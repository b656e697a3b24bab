"""The compiled loop that replays a recorded step (:mod:`mfrun.dynamics.tape`), many times in one call.

An instruction is a row of twelve integers, (code, out, a, b, i_0 .. i_7) with addresses of contiguous float32 arrays,
and two numbers. Matrix products are SciPy's BLAS, reached by the addresses that it exports; the rest are loops that the
compiler turns into vector code. Nothing here allocates, and Python is not needed (``nogil``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import get_cython_function_address, intrinsic

# What an instruction does; the integers beside it are named where it is done.
(
    PRODUCT,
    SUMS,
    COPY,
    TIMES,
    SCALE,
    SHIFT,
    MINUS,
    RELU,
    RELU_BACKWARD,
    TANH,
    TANH_BACKWARD,
    SIGMOID,
    SIGMOID_BACKWARD,
    SOFTMAX,
    SCATTER,
    ROWS,
    PIXELS,
    COUNT,
    TURN,
) = range(19)
WIDTH = 12

_LETTERS = np.frombuffer(b"NT", dtype=np.uint8).copy()
_GEMM, _GEMV = (get_cython_function_address("scipy.linalg.cython_blas", name) for name in ("sgemm", "sgemv"))


def _pointer(element: Any) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def cast(typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            return builder.inttoptr(given[0], context.get_value_type(signature.return_type))

        return types.CPointer(element)(types.int64), generate

    return cast


@intrinsic  # type: ignore[untyped-decorator]
def _call(typing: Any, function: Any, addresses: Any) -> Any:
    """A C function at an address, of pointers alone, which are given as integers."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        count = len(addresses)
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * count)
        target = builder.inttoptr(given[0], kind.as_pointer())
        builder.call(target, [builder.extract_value(given[1], i) for i in range(count)])
        return context.get_dummy_value()

    return types.void(types.int64, addresses), generate


_floats, _bytes, _integers = _pointer(types.float32), _pointer(types.uint8), _pointer(types.int64)
_inlined = njit(inline="always", error_model="numpy")

ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
# exp(x) = 2^k exp(r), |r| <= ln 2 / 2; the coefficients are those of Cephes' expf.
_LOG2E, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
_E = tuple(map(np.float32, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)))
_LARGEST, _SMALLEST = np.float32(88.0), np.float32(-87.0)
# tanh(x) = x + x^3 P(x^2) for |x| < 0.625, as Cephes' tanhf has it.
_T = tuple(
    map(np.float32, (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1))
)
_EDGE = np.float32(0.625)


@_inlined
def _exp(x):  # type: ignore[no-untyped-def]
    """e^x to a rounding error or two; what is not a number stays so."""
    x = _LARGEST if x > _LARGEST else x
    x = _SMALLEST if x < _SMALLEST else x
    k = np.floor(x * _LOG2E + np.float32(0.5))
    r = x - k * _LN2_HIGH - k * _LN2_LOW
    p = _E[0]
    p = p * r + _E[1]
    p = p * r + _E[2]
    p = p * r + _E[3]
    p = p * r + _E[4]
    p = p * r + _E[5]
    power = np.int32((np.int32(k) + np.int32(127)) << np.int32(23)).view(np.float32)
    return (p * r * r + r + ONE) * power


@_inlined
def _tanh(x):  # type: ignore[no-untyped-def]
    size = abs(x)
    large = ONE - TWO / (_exp(size * TWO) + ONE)
    large = -large if x < ZERO else large
    z = x * x
    p = _T[0]
    p = p * z + _T[1]
    p = p * z + _T[2]
    p = p * z + _T[3]
    p = p * z + _T[4]
    return large if size > _EDGE else p * z * x + x


@_inlined
def _spread(y, x, rows, columns, down, across):  # type: ignore[no-untyped-def]
    """y[i, j] = x[i * down + j * across], across = 0 or 1."""
    for i in range(rows):
        if across == 0:
            value = x[i * down]
            for j in range(columns):
                y[i * columns + j] = value
        else:
            for j in range(columns):
                y[i * columns + j] = x[i * down + j]


@_inlined
def _times(y, x, z, rows, columns, down, across):  # type: ignore[no-untyped-def]
    """y[i, j] = x[i, j] * z[i * down + j * across], across = 0 or 1."""
    for i in range(rows):
        if across == 0:
            value = z[i * down]
            for j in range(columns):
                y[i * columns + j] = x[i * columns + j] * value
        else:
            for j in range(columns):
                y[i * columns + j] = x[i * columns + j] * z[i * down + j]


@_inlined
def _softmax(y, x, rows, columns):  # type: ignore[no-untyped-def]
    """Over the rows, for each column; the first row of y holds the maxima for a while."""
    for j in range(columns):
        y[j] = x[j]
    for i in range(1, rows):
        for j in range(columns):
            y[j] = y[j] if x[i * columns + j] <= y[j] else x[i * columns + j]
    for i in range(rows - 1, -1, -1):
        for j in range(columns):
            y[i * columns + j] = _exp(x[i * columns + j] - y[j])
    for j in range(columns):
        total = ZERO
        for i in range(rows):
            total += y[i * columns + j]
        share = ONE / total
        for i in range(rows):
            y[i * columns + j] *= share


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _replay(ints, numbers, steps, letters, gemm, gemv):  # type: ignore[no-untyped-def]
    """All instructions, in their order, so many times."""
    base, factors = ints.ctypes.data, numbers.ctypes.data
    for _ in range(steps):
        for o in range(len(ints)):
            code, out, a, b = ints[o, 0], ints[o, 1], ints[o, 2], ints[o, 3]
            i0, i1, i2, i3 = ints[o, 4], ints[o, 5], ints[o, 6], ints[o, 7]
            # The addresses of i_0 and of the first number. BLAS reads an int where an int64 is, its lower half.
            i, f = base + o * 96 + 32, factors + o * 8
            if code == PRODUCT:  # (m, n, k, lda, ldb, ldc, flip a, flip b), alpha, beta.
                flip_a, flip_b = letters + ints[o, 10], letters + ints[o, 11]
                _call(gemm, (flip_a, flip_b, i, i + 8, i + 16, f, a, i + 24, b, i + 32, f + 4, out, i + 40))
            elif code == SUMS:  # (m, n, lda, 1, -, -, flip a), alpha, beta.
                _call(gemv, (letters + ints[o, 10], i, i + 8, f, a, i + 16, b, i + 24, f + 4, out, i + 24))
            elif code == COPY:  # (rows, columns, down, across)
                x = carray(_floats(a), (i0 - 1) * i2 + (i1 - 1) * i3 + 1)
                _spread(carray(_floats(out), i0 * i1), x, i0, i1, i2, i3)
            elif code == TIMES:  # (rows, columns, down, across)
                z = carray(_floats(b), (i0 - 1) * i2 + (i1 - 1) * i3 + 1)
                _times(carray(_floats(out), i0 * i1), carray(_floats(a), i0 * i1), z, i0, i1, i2, i3)
            elif code == SCALE:
                y, x, value = carray(_floats(out), i0), carray(_floats(a), i0), numbers[o, 0]
                for j in range(i0):
                    y[j] = x[j] * value
            elif code == SHIFT:
                y, x, value = carray(_floats(out), i0), carray(_floats(a), i0), numbers[o, 0]
                for j in range(i0):
                    y[j] = x[j] + value
            elif code == MINUS:
                y, x, z = carray(_floats(out), i0), carray(_floats(a), i0), carray(_floats(b), i0)
                for j in range(i0):
                    y[j] = x[j] - z[j]
            elif code == RELU:
                y, x = carray(_floats(out), i0), carray(_floats(a), i0)
                for j in range(i0):
                    y[j] = ZERO if x[j] < ZERO else x[j]
            elif code == RELU_BACKWARD:
                y, x, z = carray(_floats(out), i0), carray(_floats(a), i0), carray(_floats(b), i0)
                # In place the compiler has to know it, or it does one number at a time.
                if out == a:
                    for j in range(i0):
                        y[j] = ZERO if z[j] <= ZERO else y[j]
                else:
                    for j in range(i0):
                        y[j] = ZERO if z[j] <= ZERO else x[j]
            elif code == TANH:
                y, x = carray(_floats(out), i0), carray(_floats(a), i0)
                for j in range(i0):
                    y[j] = _tanh(x[j])
            elif code == TANH_BACKWARD:
                y, x, z = carray(_floats(out), i0), carray(_floats(a), i0), carray(_floats(b), i0)
                for j in range(i0):
                    y[j] = x[j] * (ONE - z[j] * z[j])
            elif code == SIGMOID:
                y, x = carray(_floats(out), i0), carray(_floats(a), i0)
                for j in range(i0):
                    y[j] = ONE / (ONE + _exp(-x[j]))
            elif code == SIGMOID_BACKWARD:
                y, x, z = carray(_floats(out), i0), carray(_floats(a), i0), carray(_floats(b), i0)
                for j in range(i0):
                    y[j] = x[j] * (z[j] * (ONE - z[j]))
            elif code == SOFTMAX:  # (rows, columns)
                _softmax(carray(_floats(out), i0 * i1), carray(_floats(a), i0 * i1), i0, i1)
            elif code == SCATTER:  # (columns): out[a[j], j] += number
                y, index = carray(_floats(out), 1), carray(_integers(a), i0)
                for j in range(i0):
                    y[index[j] * i0 + j] += numbers[o, 0]
            elif code == ROWS:  # (rows, bytes of a row): the rows of a that b names
                index = carray(_integers(b), i0)
                for j in range(i0):
                    target, source = carray(_bytes(out + j * i1), i1), carray(_bytes(a + index[j] * i1), i1)
                    for c in range(i1):
                        target[c] = source[c]
            elif code == PIXELS:
                y, pixels = carray(_floats(out), i0), carray(_bytes(a), i0)
                for j in range(i0):
                    y[j] = pixels[j]
            elif code == COUNT:
                carray(_integers(out), 1)[0] += 1
            else:  # TURN (rows, columns) of a
                y, x = carray(_floats(out), i0 * i1), carray(_floats(a), i0 * i1)
                for j in range(i1):
                    for c in range(i0):
                        y[j * i0 + c] = x[c * i1 + j]


def replay(ints: np.ndarray, numbers: np.ndarray, steps: int) -> None:
    """Do so many steps.

    Args:
        ints: (instructions, WIDTH) int64.
        numbers: (instructions, 2) float32.
        steps: how often.
    """
    _replay(ints, numbers, steps, _LETTERS.ctypes.data, _GEMM, _GEMV)
