"""What was read is counted by the kernel's figures, each byte once."""

import pathlib

import pytest

from agent.metrics import registries
from agent.node.near import read_meter

EXPORT = "10.0.0.5:/images"
OF_STORE, OF_COPY, OF_OTHERS = "loop3", "loop4", "loop5"


class Layers:
    @property
    def devices(self) -> dict[str, bool]:
        return {OF_STORE: False, OF_COPY: True}


class Kernel:
    """A /proc with a store, `kind` of file system, that two mounts show, and three loop devices."""

    def __init__(self, folder: pathlib.Path, kind: str) -> None:
        self.proc = folder / "proc"
        self.kind = kind
        self.place = folder / "store"
        (self.proc / "self").mkdir(parents=True)

    def show(self, *, server: int = 0, device: str = "0:50", **sectors: int) -> None:
        """Bytes from the server, and sectors by loop device, since the mount and the boot."""
        targets = ("/run/store-1", "/run/a\\040store")
        lines = ["20 1 8:1 / / rw - ext4 /dev/sda1 rw"]
        lines += [
            f"{at} 20 {device} / {target} ro - {self.kind} {EXPORT} ro"
            for at, target in enumerate(targets, 30)
        ]
        (self.proc / "self/mountinfo").write_text("\n".join(lines) + "\n")
        stats = "device rootfs mounted on / with fstype rootfs\n"
        if self.kind.startswith("nfs"):
            stats += "".join(
                f"device {EXPORT} mounted on {target} with fstype {self.kind} statvers=1.1\n"
                f"\topts:\tro,vers=4.2\n\tbytes:\t7 0 0 0 {server} 0 3 0\n"
                for target in targets
            )
        (self.proc / "self/mountstats").write_text(stats)
        disks = "   8       0 sda 5 0 999 1 0 0 0 0 0 0 0\n"
        for name in (OF_STORE, OF_COPY, OF_OTHERS):
            disks += f"   7  {name[-1]} {name} 5 0 {sectors.get(name, 0)} 1 0 0 0 0 0 0 0\n"
        (self.proc / "diskstats").write_text(disks)


def counted() -> tuple[float, float]:
    sides = ("store", "local")
    found = [
        registries.AGENT.get_sample_value("uimgacc_read_bytes_total", {"source": side})
        for side in sides
    ]
    return found[0] or 0.0, found[1] or 0.0


@pytest.fixture
def before() -> tuple[float, float]:
    return counted()


def more(before: tuple[float, float]) -> tuple[float, float]:
    store, local = counted()
    return store - before[0], local - before[1]


def test_of_nfs_the_servers_bytes_count_once_and_not_those_of_devices_on_it(
    tmp_path: pathlib.Path, before
) -> None:
    kernel = Kernel(tmp_path, "nfs4")
    meter = read_meter.ReadMeter(kernel.place, Layers(), source=EXPORT, proc=kernel.proc)
    kernel.show(server=1000, loop3=10, loop4=10, loop5=10)
    meter.count()

    assert more(before) == (0, 0)  # what was read before this agent ran

    kernel.show(server=1500, loop3=20, loop4=13, loop5=99)
    meter.count()

    assert more(before) == (500, 3 * 512)


def test_of_another_file_system_the_layers_devices_count(tmp_path: pathlib.Path, before) -> None:
    kernel = Kernel(tmp_path, "ceph")
    meter = read_meter.ReadMeter(kernel.place, Layers(), source=EXPORT, proc=kernel.proc)
    kernel.show()
    meter.count()
    kernel.show(loop3=2, loop4=1, loop5=50)
    meter.count()

    assert more(before) == (2 * 512, 512)


def test_a_new_mount_counts_from_its_begin_and_nothing_counts_backwards(
    tmp_path: pathlib.Path, before
) -> None:
    kernel = Kernel(tmp_path, "nfs4")
    meter = read_meter.ReadMeter(kernel.place, None, source=EXPORT, proc=kernel.proc)
    for server, device in ((1000, "0:50"), (70, "0:51"), (60, "0:51")):
        kernel.show(server=server, device=device)
        meter.count()

    assert more(before) == (70, 0)


def test_what_is_not_shown_is_not_counted(tmp_path: pathlib.Path, before) -> None:
    meter = read_meter.ReadMeter(tmp_path, Layers(), proc=tmp_path / "none")
    meter.count()
    meter.count()

    assert more(before) == (0, 0)
