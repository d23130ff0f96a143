"""From scores to maps: classes, filter, mask."""
