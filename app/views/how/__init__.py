"""How does the change work? Linear maps, ranks, heads and weights."""
