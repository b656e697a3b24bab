"""What a person types: the command line, Hydra, help, completion."""

import lazy_loader

# What other packages and users build on; a module is imported when its first name is asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "compose": ["compose_jobs", "compose_whole", "keys"],
    },
)
