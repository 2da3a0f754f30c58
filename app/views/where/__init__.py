"""Where do the two models diverge, and where does that change the next token? Drift and Patching."""
