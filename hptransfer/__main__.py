"""`python -m hptransfer` is the command line; torchrun starts each process of a run as this."""

import os
import sys

from hptransfer.cli.main import main

if __name__ == "__main__":
    code = main()
    if "RANK" in os.environ:
        # Python is not shut down: a gloo thread that still lets go of a tensor would be ended in
        # its destructor, which aborts a process whose work is done (1 run of 36 on a busy machine).
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
