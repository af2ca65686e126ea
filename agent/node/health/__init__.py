"""Whether this node can serve images, and the node object that says so."""
