"""One file per kind of source: `load(config, argument) -> Source`."""
