"""Experiments: one ml_collections file each, with `get_config(variant)`; every one has `:tiny`."""
