"""What games share whose networks are told noisy images, and how noisy they are."""
