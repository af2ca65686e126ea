"""Layer files behind mounts: loop devices, which file a mount reads, mounting and live switch."""
