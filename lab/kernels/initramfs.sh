#!/bin/busybox sh
# The first process of an emulated machine, from its initramfs: loads what the machine's root is
# mounted with, has that root under a writable layer in memory, and goes on with lab/guest/init.sh.
# Where that fails it ends, and with it the kernel and the emulator.
export PATH=/bin
/bin/busybox --install -s /bin
mkdir -p /proc /sys /outside/root /outside/folder /layer /new
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do
    insmod "/modules/$module" || echo "cannot load $module"
done </modules/order
options=trans=virtio,version=9p2000.L,msize=262144
mount -t 9p -o ro,cache=loose,$options root /outside/root || exit 1
mount -t 9p -o rw,cache=none,$options folder /outside/folder || exit 1
mount -t tmpfs layer /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/outside/root,upperdir=/layer/upper,workdir=/layer/work root /new || exit 1
mkdir -p /new/outside/root /new/outside/folder "/new/lib/modules/$(uname -r)"
mount --move /outside/root /new/outside/root
mount --move /outside/folder /new/outside/folder
mount --move /dev /new/dev
mount --bind "/new/outside/root$GUEST_MODULES/$(uname -r)" "/new/lib/modules/$(uname -r)"
umount /proc /sys
exec switch_root /new "$GUEST_INIT"
