"""`python -m hptransfer` is the command line."""

import sys

from hptransfer.cli import main

if __name__ == "__main__":
    sys.exit(main())
