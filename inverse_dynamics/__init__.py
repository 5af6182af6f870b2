"""Inverse dynamics: which actions lead from frame to frame."""
