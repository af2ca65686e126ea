"""Commands about pods: match."""
