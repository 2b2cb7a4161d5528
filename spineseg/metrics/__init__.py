"""Metrics: own small pure functions, each with formula, empty rule and units. Neither torch nor ultralytics here."""

from typing import Final

# Version of the definitions that the numbers follow; stands beside every one of them.
PROTOCOL: Final = "1.0"
