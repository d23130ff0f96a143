"""Which images are alike: descriptions of patches, scenes, similar images."""
