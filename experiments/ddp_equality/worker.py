"""One process of a training: `spineseg.train`, with the callback of witness.py within its reach."""

import witness  # noqa: F401  a configuration may name a class of a module that is loaded

from spineseg.train import main

if __name__ == "__main__":
    main()
