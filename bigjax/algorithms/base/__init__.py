"""The contract that every family keeps, and what families share."""
