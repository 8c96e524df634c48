"""The loop, what it saves and what it shows."""
