"""Data: which cases there are, who is in which split, and prepared volumes that load fast."""

import logging
import os

# blosc2 imports numexpr, which announces its threads on every start.
logging.getLogger("numexpr").setLevel(logging.WARNING)
# It also asks numexpr for as many threads as there are cores, which numexpr refuses on standard error where
# OMP_NUM_THREADS is lower, unless it is told the limit under this name too.
if os.environ.get("OMP_NUM_THREADS"):
    os.environ.setdefault("NUMEXPR_MAX_THREADS", os.environ["OMP_NUM_THREADS"])
