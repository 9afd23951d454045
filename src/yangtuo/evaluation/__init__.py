"""Measuring and trying out what was trained."""
