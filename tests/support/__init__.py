"""What several test modules share: models, pairs, pages, and a browser. Modules with fixtures are listed in conftest.py."""
