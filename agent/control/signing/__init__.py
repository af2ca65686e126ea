"""The controller's key: kept in a Secret, published to nodes, and what it signs."""
