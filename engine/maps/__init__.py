"""From scores to maps, as pure functions: classes, filter, mask, shares."""
