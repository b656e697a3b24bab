"""SciPy, loaded with a BLAS of one thread: it serves small products here, where a second one costs more than it gives.

How many it has is read from the environment when it is loaded, which is everybody's: it is put back.
"""

import os

import numpy as np  # noqa: F401  (It has a BLAS of its own, whose threads are the caller's, and is loaded before.)

_KEY = "OPENBLAS_NUM_THREADS"
_before = os.environ.get(_KEY)
os.environ.setdefault(_KEY, "1")
try:
    from scipy import special
finally:
    if _before is None:
        del os.environ[_KEY]

__all__ = ["special"]
