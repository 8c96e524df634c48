"""A local web page that plays with trained models."""
