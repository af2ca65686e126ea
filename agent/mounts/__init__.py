"""EROFS mounts of layers: system calls, the mount table, option strings."""
