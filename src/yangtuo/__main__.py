"""`python -m yangtuo` is the same as the command `yangtuo`."""

import sys

from yangtuo.cli import main

sys.exit(main())
