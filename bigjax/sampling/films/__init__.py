"""Films of a generator of still images."""
