"""Is it right, and is it fast: planted edits and benchmarks."""
