"""`python -m worker.cli`: the command line of this very installation, whatever is on the PATH."""

from worker.cli import main

main()
