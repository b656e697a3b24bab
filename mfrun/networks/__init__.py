"""What learns: measures, initial laws, activations, layers, and ``build`` for any width, infinity included."""

import lazy_loader

# What other packages and users build on; a module is imported when its first name is asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "activations": ["Activation"],
        "architecture": ["Architecture", "Blueprint", "StandIn"],
        "dense": ["Dense"],
        "drawing": ["AnyWidth"],
        "drawn": ["Drawn"],
        "fully_connected": ["DenseArchitecture"],
        "init": ["IID", "InitialLaw", "Layers"],
        "laws": ["Law"],
        "measures": ["Measure"],
        "network": ["Network", "Workspace"],
        "neurons": ["Neuron"],
        "operations": ["Connection", "Operation", "Pointwise"],
        "particles": ["Particles", "Types"],
        "scaling": ["Factors", "Scaling"],
    },
)
