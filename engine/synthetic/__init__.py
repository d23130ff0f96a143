"""A made-up country whose truth is known: imagery, clouds, buildings, labels."""
