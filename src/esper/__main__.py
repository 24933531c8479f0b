"""`python -m esper` is the command line."""

from esper.cli.main import main

if __name__ == "__main__":
    main()
