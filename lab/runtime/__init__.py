"""Container runtimes that tests run, and nodes with one: containerd, CRI, kubelet, SOCI."""
