"""One prompt of your own: single interventions, several together, and what the models write."""
