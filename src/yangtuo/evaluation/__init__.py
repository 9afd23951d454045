"""Measures of a model on data, and what they show: scores, their errors, questions with four options."""
