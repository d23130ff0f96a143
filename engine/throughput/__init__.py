"""How fast a recipe runs on this machine, beside what it could not be faster than."""
