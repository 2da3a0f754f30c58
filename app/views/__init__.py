"""What the pages draw: a file per page, in the sidebar's sections, and the parts that several pages share."""
