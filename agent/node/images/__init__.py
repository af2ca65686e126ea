"""Images in containerd: registered, repaired, retired, evicted."""
