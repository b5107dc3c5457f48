"""Frozen networks whose features scores and critics look at."""
