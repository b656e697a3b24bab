"""What is read off finished runs: curves, convergence to the limit."""

import lazy_loader

# What other packages and users build on; a module is imported when its first name is asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "convergence": ["Fit", "Gap", "Study", "study"],
        "curves": ["Curve", "load"],
    },
)
