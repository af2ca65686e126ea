#!/bin/bash
# The first process in the guest: makes a machine of it, runs one command and powers off.
#
# Of the machine's root, which is read-only here, these come from outside: GUEST_CHECKOUT and
# GUEST_LAB to read, GUEST_FOLDER to write to. GUEST_FOLDER/command is what is run; its output
# and status are written beside it.
outside() {
    mkdir -p "$2"
    mount -t hostfs -o "$1,/host$2" host "$2"
}

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup /sys/fs/cgroup
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
for folder in /tmp /run /var/lib /var/tmp; do
    mount -t tmpfs -o mode=1777 tmp $folder
done
mount --make-rshared /
outside ro "$GUEST_CHECKOUT"
outside ro "$GUEST_LAB"
outside rw "$GUEST_FOLDER"
mkdir -p /run/etc/{upper,work} /run/kernel/{lib/modules,usr}
# Distributions differ in where modprobe looks.
ln -s ../lib /run/kernel/usr/lib
mount --bind "$GUEST_LAB/uml/usr/lib/uml/modules" /run/kernel/lib/modules
for module in overlay erofs loop dm-verity nfsv4 nfsv3 nfsd veth sch_netem; do
    modprobe -d /run/kernel $module
done
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work etc /etc
ip link set lo up
hostname guest

cd "$GUEST_CHECKOUT"
PATH=$GUEST_LAB/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH HOME=/tmp LANG=C.UTF-8 UIMGACC_LAB=$GUEST_LAB
bash "$GUEST_FOLDER/command" >"$GUEST_FOLDER/output" 2>&1
echo $? >"$GUEST_FOLDER/status"
sync
echo o >/proc/sysrq-trigger
sleep 60
