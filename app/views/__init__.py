"""What the pages draw: a file per page, in the sidebar's sections; parts that several pages share lie beside them."""
