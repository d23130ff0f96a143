"""Model cards, input preparation, and one file per network."""
