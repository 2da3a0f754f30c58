"""Clean passes and patched rows: how an intervention runs in a model."""
