"""Layers of Transformers on maps of tokens: norms, MLPs, resampling, attention in windows."""
