"""`python -m s3nsync` is the `s3nsync` command."""

from s3nsync.cli import main

main()
