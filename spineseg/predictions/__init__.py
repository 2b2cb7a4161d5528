"""Predictions of any model: 2D instances a sagittal slice, label maps on the native grid, and the ways between them."""
