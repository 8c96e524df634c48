"""Training-time guidance: a change of the target velocity before targets are made."""
