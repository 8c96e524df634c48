"""Weights that others trained, as folders of genobj."""
