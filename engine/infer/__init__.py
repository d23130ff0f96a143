"""Scores: networks over tiles, in fixed blocks."""
