"""Policies: actors, cloning, refinement and evaluation in any vector environment."""
