"""Old addresses of the curation commands, kept so that `python -m mechdiff.scripts.NAME` runs."""
