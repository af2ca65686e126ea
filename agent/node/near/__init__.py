"""What makes a node independent of the store: local copies of the layers that it runs."""
