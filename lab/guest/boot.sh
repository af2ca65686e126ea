#!/bin/sh
# Start the guest's kernel: boot.sh JAIL LIBRARIES MEMORY [KERNEL'S ARGUMENTS], in a mount namespace
# of its own, which ends with it.
#
# The kernel is a program of a newer Debian and needs that one's C library and loader, so it
# gets a root of its own; in it, as `host`, the machine's root, which becomes the guest's.
set -eu
jail=$1 libraries=$2 memory=$3
shift 3
# A copy of what other tests have mounted, at another place, would be a use of their layers: they
# would stay mounted for as long as the guest runs.
while read -r _ target kind _; do
    case $kind:$target in erofs:/tmp/* | overlay:/tmp/*) umount -l "$target" || true ;; esac
done <<MOUNTS
$(cat /proc/mounts)
MOUNTS
mount -t tmpfs -o mode=755 jail "$jail"
cd "$jail"
mkdir -p bin lib64 proc dev/shm tmp host
mount --rbind / host
mount -t proc proc proc
# The guest's memory is a file here.
mount -t tmpfs -o "size=$memory" shm dev/shm
for device in null zero random urandom; do
    touch dev/$device
    mount --bind /dev/$device dev/$device
done
cp "$libraries"/ld-linux-* "$libraries"/libc.so.6 "$libraries"/libgcc_s.so.1 lib64/
cp "$UIMGACC_LAB"/uml/usr/bin/linux.uml bin/
export LD_LIBRARY_PATH=/lib64
exec chroot . /bin/linux.uml "mem=$memory" rootfstype=hostfs rootflags=/host ro \
    uml_dir=/tmp/ con=null con0=fd:0,fd:1 seccomp=on "$@"
