"""A trained generator: load, draw, write."""
