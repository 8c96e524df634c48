"""The genobj command."""
