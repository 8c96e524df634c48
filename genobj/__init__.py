"""Generative objectives, composed: one backbone, N named heads, objectives that share one forward."""

__version__ = "0.1.0"
