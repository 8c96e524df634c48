"""Laws of the training times t and r."""
