"""Gaussian diffusion: schedules and their tables, the process, importance sampling, samplers."""
