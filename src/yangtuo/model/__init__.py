"""The base model and the weights that are trained beside it."""
