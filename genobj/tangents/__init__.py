"""Exact derivatives of a network beside a forward that is run anyway."""
