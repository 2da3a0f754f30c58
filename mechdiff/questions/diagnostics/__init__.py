"""Checks of the questions' methods: how well maps fit, how weights and maps overlap, whether rows equal plain hooks."""
