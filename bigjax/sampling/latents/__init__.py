"""Latents of one's own: found for images, kept in files, moved along directions."""
