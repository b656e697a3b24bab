"""What learns: measures, initial laws, activations, layers, and ``build`` for any width, infinity included."""
