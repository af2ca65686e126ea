"""containerd's configuration: read as containerd does, planned, edited."""
