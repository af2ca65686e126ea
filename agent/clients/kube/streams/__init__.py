"""What the API server passes on from pods: logs, commands in containers, pages of their own."""
