"""Scores of samples as functions of arrays: features, logits or images in, numbers out.

One file per score. None runs a network but `accuracy`, draws a sample, reads a file or prints:
whoever calls does, and gives a score the name that tells its protocol.
"""
