"""The table of contents: which stages make which product, and the verbs that run them."""
