"""What is learned: data sources (the law P), losses L(y, yhat) and test functions phi(y, yhat)."""

import lazy_loader

# What other packages and users build on; a module is imported when its first name is asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "losses": ["Loss"],
        "problem": ["Evaluation", "FiniteProblem", "PopulationProblem", "Problem"],
        "streams": ["Stream"],
        "tasks": ["Task", "of_true_class", "one_hot"],
    },
)
