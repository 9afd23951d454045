"""`python -m yangtuo` is the same as the command `yangtuo`."""

import sys

from yangtuo.cli import main

if __name__ == "__main__":  # the processes that encode large data may import this file
    sys.exit(main())
