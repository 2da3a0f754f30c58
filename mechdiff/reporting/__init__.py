"""Tables to charts, pages and files."""
