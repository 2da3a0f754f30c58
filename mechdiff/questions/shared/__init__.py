"""What the questions have in common: requests, conditions, effects in cached chunks, fitted maps, summaries."""
