"""One straight-line file per family, each with `make(config)` and `make_generator(architecture)`."""
