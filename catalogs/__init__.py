"""Cards: sources and boundaries. A user adds one as a YAML file of their own."""
