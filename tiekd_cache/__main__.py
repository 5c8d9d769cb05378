"""`python -m tiekd_cache`: the command line, e.g. under torchrun."""

from tiekd_cache.cli import main

main(prog_name="tiekd-cache")
