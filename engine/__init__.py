"""natmap: from a STAC catalogue and a model to a national map of cities."""
