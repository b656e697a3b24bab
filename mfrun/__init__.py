"""Train networks of width n and of n = infinity under the mean field scaling of arXiv 1902.02880."""

__version__ = "0.1.0"
