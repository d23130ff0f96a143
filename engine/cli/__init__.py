"""The command `natmap`."""
