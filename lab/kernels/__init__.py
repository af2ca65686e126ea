"""Machines with the kernels that Debian ships, emulated by qemu: `make kernels`.

User Mode Linux (lab.guest) is one kernel, and a newer one than most nodes have. Here the same
checkout runs on the kernels of Debian's releases, as they are, without anything of the
machine below but its files. Emulated instructions are some fifteen times as slow.
"""
