"""Plan and execution: stages and tiles, and nothing of satellites."""
