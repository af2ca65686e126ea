"""What the lab gathers, each once: Debian's packages, Helm, containerd's conformance suite."""
