"""Scores against true classes: confusion, metrics, mistakes."""
