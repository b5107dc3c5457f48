"""Generators as games train them and as they are sampled, where one game has a choice of them."""
