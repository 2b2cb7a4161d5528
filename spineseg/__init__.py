"""Vertebra segmentation and localisation in CT: one protocol for 2D detectors and 3D networks."""

__version__ = "0.1.0"
