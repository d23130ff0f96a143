"""Embeddings that others publish, behind one reader."""
