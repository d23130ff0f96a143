"""From labelled places to a model: patch sets, splits, the training loop, forests."""
