"""`python -m s3nsync.emulator`: see `command`."""

import os
import sys

from s3nsync.emulator.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ, program="python -m s3nsync.emulator"))
