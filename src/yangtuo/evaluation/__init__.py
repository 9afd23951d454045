"""Measures of a model on data, and the verdict."""
