"""What can be known before a run is paid for."""
