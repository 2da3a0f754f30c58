"""Where do the two models diverge, and where does it matter? Drift and patching."""
