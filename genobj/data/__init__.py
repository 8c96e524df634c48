"""What is learnt: toys, digits."""
