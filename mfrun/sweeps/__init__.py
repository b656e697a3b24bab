"""Many runs: launching them, side by side on one machine, and what they will take."""

import lazy_loader

# What other packages and users build on; a module is imported when its first name is asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "jobs": ["Run", "SideBySide"],
        "launch": ["sweep", "train"],
    },
)
