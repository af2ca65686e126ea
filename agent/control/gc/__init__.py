"""The controller's side of deleting safely."""
