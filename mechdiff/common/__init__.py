"""Words, errors, places on disk and the disk cache: what every other package may use."""
