"""Which caches may serve a pod, by names of files: hints, so that no look-up reads all caches."""
