"""The node agent: pods -> matches -> mounted and registered images -> reports."""
