"""Your own prompt: single interventions, several together, and what the models generate."""
