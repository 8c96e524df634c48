"""python -m genobj is the genobj command."""

from genobj.cli.main import main

main()
