#!/bin/bash
# The first process in the guest: makes a machine of it, runs one command and powers off.
#
# Of the machine's root, which is read-only here, these come from outside: GUEST_CHECKOUT, GUEST_LAB
# and GUEST_MODULES to read, GUEST_FOLDER to write to. GUEST_FOLDER/command is what is run; its
# output and status are written beside it.
PATH=$GUEST_LAB/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH HOME=/tmp LANG=C.UTF-8 UIMGACC_LAB=$GUEST_LAB
outside() {
    mkdir -p "$2"
    if [ -d /outside ]; then
        # An emulated machine (lab.kernels): its initramfs has mounted both there.
        if [ "$1" = rw ]; then mount --bind /outside/folder "$2"; else mount --bind "/outside/root$2" "$2"; fi
    else
        mount -t hostfs -o "$1,/host$2" host "$2"
    fi
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
if [ -b /dev/vda ]; then
    # An emulated machine has a disk.
    mount -t ext4 /dev/vda /tmp
    chmod 1777 /tmp
fi
mount --make-rshared /
outside ro "$GUEST_CHECKOUT"
outside ro "$GUEST_LAB"
outside rw "$GUEST_FOLDER"
mkdir -p /run/etc/{upper,work} /run/kernel/{lib/modules,usr}
# Distributions differ in where modprobe looks.
ln -s ../lib /run/kernel/usr/lib
mount --bind "$GUEST_MODULES" /run/kernel/lib/modules
for module in overlay erofs loop dm-verity nfsv4 nfsv3 nfsd veth sch_netem; do
    modprobe -d /run/kernel $module
done
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work etc /etc
ip link set lo up
hostname guest

cd "$GUEST_CHECKOUT"
bash "$GUEST_FOLDER/command" >"$GUEST_FOLDER/output" 2>&1
echo $? >"$GUEST_FOLDER/status"
sync
# Begun before the devices go that programs are read from.
sleep 60 &
echo o >/proc/sysrq-trigger
wait
