"""Scores of networks themselves, not of sets of images: of a generator, of its encoder."""
