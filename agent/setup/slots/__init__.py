"""How many nodes restart containerd at once: a Lease for each that may."""
