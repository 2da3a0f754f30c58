"""Whole sweeps: planned, run, stored, compared, and the original study's own files."""
