"""Train networks of width n and of n = infinity under the mean field scaling of arXiv 1902.02880."""

import lazy_loader

__version__ = "0.1.0"

# The names of __init__.pyi, each imported when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
