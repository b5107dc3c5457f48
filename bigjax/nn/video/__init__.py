"""What networks of clips [B, T, H, W, C] have beside those of images."""
