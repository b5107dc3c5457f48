"""Vision transformers with published weights."""
