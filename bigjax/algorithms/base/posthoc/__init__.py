"""Averages of weights whose length is chosen after training (post-hoc EMA)."""
