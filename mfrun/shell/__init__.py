"""What a person types: the command line, Hydra, help, completion."""
