"""The parts of benchmarks/roofline.py.

devices   what GPUs reach, with sources, and how long an operation takes on one
kinds     what an operation is for: the rows of the table
forecast  a trace's times, bytes and kernels, added up
compiled  what Inductor makes of a decoder layer: its bytes and kernels
runs      the rows and options that are run on the fake device
"""
