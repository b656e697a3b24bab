"""Train networks of width n and of n = infinity under the mean field scaling of arXiv 1902.02880."""

import os

# SciPy's BLAS serves small products only, where a second thread costs more than it gives. Read when SciPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.1.0"
