"""What networks and games are made of."""
