"""Whole sweeps: stored, compared, started and replayed."""
