"""How it learns: schedules xi(t), evaluation, the training loop."""

import lazy_loader

# What other packages and users build on; a module is imported when its first name is asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "evaluate": ["Evaluator"],
        "experiment": ["Experiment", "Problems", "assemble", "load_into", "restore"],
        "schedules": ["Rates", "Schedule"],
        "steps": ["Steps"],
    },
)
