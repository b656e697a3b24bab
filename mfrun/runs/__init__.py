"""One run: its folder, how it stands, where its metrics go, how it shows itself, what stops it."""

import lazy_loader

# What other packages and users build on; a module is imported when its first name is asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "directory": ["RunDirectory", "find_runs", "newest", "read_sweep"],
        "loggers": ["Logger"],
        "progress": ["say"],
        "signals": ["Signals"],
    },
)
