"""What every floor may use: no neural network, no image data."""
