"""What a run, a training or an adaptation is told: schemas of YAML files."""
