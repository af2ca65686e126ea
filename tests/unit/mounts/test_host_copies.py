"""Which mount tables are a container's: only there is anything let go of."""

import pytest

from agent.mounts import host_copies, mountinfo

HOST = "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
CONTAINER = "200 150 0:80 / / ro,relatime - overlay overlay rw,lowerdir=/a,upperdir=/b\n"
COPY = "201 200 0:81 / /run/containerd/x/rootfs rw - overlay overlay rw,lowerdir=/c\n"


@pytest.mark.parametrize(("table", "expected"), [(HOST, 0), (CONTAINER, 1)])
def test_a_host_keeps_its_mounts_and_a_container_lets_its_copies_go(
    table: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: list[tuple[str, int]] = []
    text = table + COPY + "202 200 0:22 / /run/containerd rw - tmpfs tmpfs rw\n"
    monkeypatch.setattr(mountinfo, "read", lambda: list(mountinfo.parse(text)))
    monkeypatch.setattr(host_copies.syscalls, "unmount", lambda *call: gone.append(call))

    assert host_copies.detach_below("/run/containerd") == expected
    assert gone == [("/run/containerd/x/rootfs", 2)] * expected


def test_the_mounts_that_folders_are_on_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[tuple[str, int]] = []
    places = ("/host", "/host/run", "/host/run/netns/a", "/host/var", "/host/var/lib/k3s/etc/x")
    places += ("/host/data", "/host/variant")
    table = "".join(f"9 8 0:1 / {place} rw - tmpfs tmpfs rw\n" for place in places)
    monkeypatch.setattr(mountinfo, "read", lambda: list(mountinfo.parse(CONTAINER + table)))
    monkeypatch.setattr(host_copies.syscalls, "unmount", lambda *call: gone.append(call))

    host_copies.detach_below("/host", but=["/host/run", "/host/var/lib/k3s/etc"])

    left = {place for place, _ in gone}
    assert left == {*places} - {"/host", "/host/run", "/host/var"}
