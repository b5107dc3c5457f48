"""What `bigjax view` shows: a generator behind sliders, and its run beside it."""
