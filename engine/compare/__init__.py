"""What is known of a map: against references, samples, other releases and other maps."""
