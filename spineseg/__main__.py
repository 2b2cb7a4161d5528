"""Make `python -m spineseg` the same as the console script."""

from spineseg.cli import main

if __name__ == "__main__":
    main()
