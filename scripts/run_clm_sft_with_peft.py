"""The training script under its old name: the same as `yangtuo train`, for torchrun and for command lines of 2023."""

import sys

from yangtuo.cli import main

if __name__ == "__main__":  # the processes that encode large data import this file
    sys.exit(main(["train", *sys.argv[1:]]))
