"""Commands about this machine: node-setup, doctor."""
