"""What is kept of a run beside its state: its clock, its copies in trackers, runs side by side."""
