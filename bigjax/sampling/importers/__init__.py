"""Weights published by others, in our layout."""
