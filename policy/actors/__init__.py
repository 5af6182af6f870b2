"""Actors: from observations to chunks of actions."""
