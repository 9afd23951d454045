"""The training script under its old name: the same as `yangtuo train`, for torchrun and for command lines of 2023."""

from yangtuo.cli import program

if __name__ == "__main__":  # the processes that encode large data import this file
    program("train")
