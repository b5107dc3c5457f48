"""Generators as games train them and as they are sampled: shared by games, or chosen among."""
