"""``python -m naf_hub``: the command line, for launchers that start modules."""

from .commands.main import main

main()
