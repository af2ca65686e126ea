"""The mounts that containerd's own overlayfs snapshotter would answer."""

from agent.mounts import overlay


def test_an_active_snapshot_on_nothing_is_a_bind_mount() -> None:
    assert overlay.active("/u", "/w", []) == overlay.Mount("bind", "/u", ("rw", "rbind"))


def test_an_active_snapshot_on_layers_is_an_overlay_topmost_first() -> None:
    mount = overlay.active("/u", "/w", ["/2", "/1"], extra=["index=off"])

    expected = ("index=off", "workdir=/w", "upperdir=/u", "lowerdir=/2:/1")
    assert mount == overlay.Mount("overlay", "overlay", expected)


def test_views() -> None:
    assert overlay.view("/o", []) == overlay.Mount("bind", "/o", ("ro", "rbind"))
    assert overlay.view("/o", ["/1"]) == overlay.Mount("bind", "/1", ("ro", "rbind"))
    assert overlay.view("/o", ["/2", "/1"]).options == ("lowerdir=/2:/1",)
    assert overlay.view("/o", ["/1", "/1"]).kind == "bind"


def test_a_layer_that_is_in_a_chain_twice_stands_at_its_topmost_place() -> None:
    assert overlay.without_duplicates(["/a", "/b", "/a", "/c"]) == ["/a", "/b", "/c"]
