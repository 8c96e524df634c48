"""What the heads learn."""
