"""One straight-line file per family, with `make(config)` and `make_generator(architecture)`."""
