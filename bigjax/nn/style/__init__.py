"""Layers of PGGAN's family: PGGAN, MSG-GAN, StyleGAN and what came of them."""
