"""Commands about a whole cluster: status, and what commands ask of its agents."""
