"""Executing steps: which rows form one, how it is cut into micro-batches, its loss, its gradient."""
