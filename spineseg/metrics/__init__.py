"""Metrics: own small pure functions, each with formula, empty rule and units. Neither torch nor ultralytics here."""
