"""Data: which cases there are, who is in which split, and prepared volumes that load fast."""

import logging

# blosc2 imports numexpr, which announces its threads on every start.
logging.getLogger("numexpr").setLevel(logging.WARNING)
