"""Which layers a chain ID stands for: by this node's own copies first, then by the store."""
