"""What is measured in a guest (lab.guest): it needs a real NFS client, a distance, dm-verity."""
