"""What is mapped: one file a product, and the stages that products share."""
