"""How many processors there are; apart, so that what needs no PyTorch need not import it."""

import os


def processors() -> int:
    """Processors that this process may use; macOS and Windows have no affinity, there all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
