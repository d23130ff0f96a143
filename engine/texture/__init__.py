"""What pictures look like: codes of their texture, and the scenes of an earlier set."""
