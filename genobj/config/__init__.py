"""Settings: frozen classes, recipes, overrides, and where every value came from."""
