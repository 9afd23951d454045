"""The parts of benchmarks/throughput.py. Only `machine` and `peers` import torch; the command's own process does not.

settings  what all contenders share
work      rows, steps and the FLOP that they cannot do without
runs      what one contender's run was, all runs together, whether they did the same work
summary   rates, ratios and shares over the rounds, and the table
bench     starts the processes and measures their memory
machine   the child that measures the matrix-multiply rate
peers     the child that trains as the seed or TRL does
record    the JSON file
"""
