"""Commands about pods: why, match."""
