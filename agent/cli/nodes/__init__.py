"""Commands about single nodes of a cluster: in, out, and whose turn it is."""
