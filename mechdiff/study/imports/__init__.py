"""Imports: a CultShift-vs-CogShift artifacts folder as tables beside ours, marked with what they lack. Needs no torch."""
