"""``python -m tokenmill.cli``: the command where it is not on PATH."""

from tokenmill.cli import main

if __name__ == "__main__":
    main()
