"""Trunks: networks that turn (x_t, t, r, y) into features."""
