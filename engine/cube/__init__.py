"""From items to scenes and composites: read, warp, mask, reduce."""
