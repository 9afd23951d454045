"""`python -m yangtuo` is the same as the command `yangtuo`."""

from yangtuo.cli import program

if __name__ == "__main__":  # the processes that encode large data may import this file
    program()
