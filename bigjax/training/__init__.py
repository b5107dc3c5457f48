"""A run: loop, batches, workdir, logs, watchdog."""
