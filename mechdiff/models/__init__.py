"""A pair of models in memory: found, loaded, placed and checked."""
