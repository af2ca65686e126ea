"""Node set-up on files: edits in between, crashes, odd files."""

import pathlib
import stat

import pytest

from agent.setup.config import file_edits, inputs, journal, settings_view, toml_edit
from agent.setup.node import apply, config_reader, host
from tests.unit.setup import machines

WANTED = inputs.Wanted()
BOTH = pytest.mark.parametrize("release", ["1.7", "2"])
V2 = 'version = 2\n\n[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]\n'
V2 += '  runtime_type = "io.containerd.runc.v2"\n'


def set_up(machine: machines.Machine, wanted: inputs.Wanted = WANTED) -> apply.Outcome:
    return apply.set_up(machine.host, machine.target, wanted)


def undo(machine: machines.Machine) -> apply.Outcome:
    return apply.undo(machine.host, machine.target.main)


def seen(machine: machines.Machine) -> settings_view.View:
    """What the files mean together."""
    found = [settings_view.File(machine.target.main, machine.config.read_text())]
    drop_in = machine.config.parent / "conf.d" / inputs.DROP_IN
    if drop_in.exists():
        found.append(settings_view.File(settings_view.Path(drop_in), drop_in.read_text()))
    return settings_view.view(found[0], found[1:], machine.target.release)


@BOTH
def test_undo_keeps_what_a_person_edited_after_node_setup(
    release: str, tmp_path: pathlib.Path
) -> None:
    machine = machines.write(tmp_path, V2, release)
    set_up(machine)
    machine.config.write_text(machine.config.read_text() + '\n[debug]\n  level = "debug"\n')

    outcome = undo(machine)

    assert machine.config.read_text() == V2 + '\n[debug]\n  level = "debug"\n'
    assert any("edited" in note for note in outcome.notes)


def test_undo_finds_ours_also_where_the_markers_are_gone(tmp_path: pathlib.Path) -> None:
    machine = machines.write(tmp_path, V2, "1.7")
    set_up(machine)
    edited = machine.config.read_text().replace(toml_edit.BEGIN, "").replace(toml_edit.END, "")
    machine.config.write_text(edited)

    undo(machine)

    left = settings_view.parse(settings_view.File(machine.target.main, machine.config.read_text()))
    assert left == settings_view.parse(settings_view.File(machine.target.main, V2))


def test_undo_gives_a_value_back_that_the_person_had_set(tmp_path: pathlib.Path) -> None:
    text = V2 + '[plugins."io.containerd.grpc.v1.cri".containerd]\n'
    text += "  disable_snapshot_annotations = true # said the vendor\n"
    machine = machines.write(tmp_path, text, "1.7")
    set_up(machine)
    machine.config.write_text("# edited\n" + machine.config.read_text())

    undo(machine)

    assert machine.config.read_text() == "# edited\n" + text


@BOTH
def test_undo_works_without_the_journal(release: str, tmp_path: pathlib.Path) -> None:
    machine = machines.write(tmp_path, V2, release)
    set_up(machine)
    for path in (machine.config.parent / journal.FOLDER).iterdir():
        path.unlink()

    undo(machine)

    assert "uimgacc" not in machine.config.read_text().replace("imports = []", "")


def test_undo_where_nothing_was_done_does_nothing(tmp_path: pathlib.Path) -> None:
    machine = machines.write(tmp_path / "a", V2, "2")

    assert not undo(machine).changed
    assert not apply.undo(host.Host(tmp_path / "b"), machine.target.main).changed
    assert not (tmp_path / "b").exists()


@BOTH
def test_a_handler_that_was_added_later_gets_its_twin_at_the_next_run(
    release: str, tmp_path: pathlib.Path
) -> None:
    machine = machines.write(tmp_path, V2, release)
    set_up(machine)
    added = '\n[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]\n'
    added += '  runtime_type = "io.containerd.kata.v2"\n'
    machine.config.write_text(machine.config.read_text() + added)

    outcome = set_up(machine)

    assert outcome.twins["uimgacc-kata"] == "kata"
    assert not set_up(machine).changed
    undo(machine)
    assert machine.config.read_text() == V2 + added


@BOTH
def test_a_new_address_replaces_the_old_one(release: str, tmp_path: pathlib.Path) -> None:
    machine = machines.write(tmp_path, V2, release)
    set_up(machine)

    set_up(machine, inputs.Wanted(address="/run/new.sock"))

    written = b"".join(machine.files().values())
    assert b"/run/new.sock" in written
    assert inputs.ADDRESS.encode() not in written


def test_an_upgrade_of_containerd_moves_ours_to_a_drop_in(tmp_path: pathlib.Path) -> None:
    machine = machines.write(tmp_path, V2, "1.7")
    set_up(machine)
    upgraded = machines.Machine(
        machine.root, config_reader.Target(machine.target.main, machines.RELEASES["2"])
    )

    set_up(upgraded)

    assert toml_edit.BEGIN not in machine.config.read_text()
    assert (machine.config.parent / "conf.d" / inputs.DROP_IN).exists()
    undo(upgraded)
    assert machine.files() == {"etc/containerd/config.toml": V2.encode()}


@BOTH
@pytest.mark.parametrize("writes", range(6))
def test_a_crash_between_two_writes_can_be_undone_and_repeated(
    release: str, writes: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = machines.write(tmp_path, V2, release)
    real = host.Host.write
    left = writes

    class Crash(BaseException):
        pass

    def write(self: host.Host, path: settings_view.Path, data: bytes, *, mode: int = 0o644) -> None:
        nonlocal left
        if left == 0:
            raise Crash
        left -= 1
        real(self, path, data, mode=mode)

    with monkeypatch.context() as patch:
        patch.setattr(host.Host, "write", write)
        try:
            set_up(machine)
        except Crash:
            # containerd can start with whatever is there.
            settings_view.parse(settings_view.File(machine.target.main, machine.config.read_text()))

    undo(machine)
    assert machine.config.read_text() == V2
    set_up(machine)
    assert not set_up(machine).changed


def test_mode_and_symbolic_link_of_a_file_stay(tmp_path: pathlib.Path) -> None:
    machine = machines.write(tmp_path, V2, "1.7")
    real = machine.root / "usr" / "config.toml"
    real.parent.mkdir()
    machine.config.rename(real)
    real.chmod(0o600)
    machine.config.symlink_to("/usr/config.toml")

    set_up(machine)

    assert machine.config.is_symlink()
    assert toml_edit.BEGIN in real.read_text()
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    backups = list((machine.config.parent / journal.FOLDER).glob("*.before"))
    assert [stat.S_IMODE(path.stat().st_mode) for path in backups] == [0o600]


@pytest.mark.parametrize(
    "text",
    [
        "version = 2\nproxy_plugins = {}\n",
        "version = 2\n[plugins]\n"
        '"io.containerd.grpc.v1.cri" = { containerd = { runtimes = { runc = {} } } }\n',
    ],
)
def test_a_file_that_cannot_be_edited_safely_is_refused_and_stays(
    text: str, tmp_path: pathlib.Path
) -> None:
    machine = machines.write(tmp_path, text, "1.7")

    with pytest.raises(settings_view.ConfigError, match="cannot be edited without risk"):
        set_up(machine)

    assert machine.files() == {"etc/containerd/config.toml": text.encode()}


def test_broken_toml_is_named_and_left_alone(tmp_path: pathlib.Path) -> None:
    machine = machines.write(tmp_path, "version = \n", "2")

    with pytest.raises(settings_view.ConfigError, match="not valid TOML"):
        set_up(machine)


def test_a_later_file_that_would_win_is_found_before_anything_is_written(
    tmp_path: pathlib.Path,
) -> None:
    text = 'version = 3\nimports = ["/etc/containerd/conf.d/*.toml"]\n'
    machine = machines.write(tmp_path, text, "2")
    later = machine.config.parent / "conf.d" / "zz.toml"
    later.parent.mkdir()
    later.write_text(
        "[plugins.'io.containerd.cri.v1.images']\ndisable_snapshot_annotations = true\n"
    )
    before = machine.files()

    with pytest.raises(settings_view.ConfigError, match="overrid"):
        set_up(machine)

    assert machine.files() == before


@BOTH
def test_a_handler_is_left_that_starts_without_us(release: str, tmp_path: pathlib.Path) -> None:
    machine = machines.make(tmp_path / "node", "kubeadm", release)
    before = machine.files()

    outcome = set_up(machine, inputs.Wanted(default_snapshotter=True))

    assert outcome.twins["without-uimgacc"] == "runc"
    view = seen(machine)
    former = {**view.runtimes["runc"], "snapshotter": "overlayfs"}
    assert view.runtimes["without-uimgacc"] == former
    assert view.snapshotter == "uimgacc"
    machine.config.write_text("# edited\n" + machine.config.read_text())
    undo(machine)
    name = str(machine.config.relative_to(machine.root))
    assert machine.files() == {**before, name: b"# edited\n" + before[name]}


@BOTH
def test_the_default_snapshotter_can_be_ours(release: str, tmp_path: pathlib.Path) -> None:
    machine = machines.write(tmp_path, V2, release)

    set_up(machine, inputs.Wanted(default_snapshotter=True))

    assert b'snapshotter = "uimgacc"\n' in b"".join(machine.files().values())
    assert not set_up(machine, inputs.Wanted(default_snapshotter=True)).changed
    undo(machine)
    assert machine.config.read_text() == V2


def test_containerd_1_6_is_refused(tmp_path: pathlib.Path) -> None:
    machine = machines.write(tmp_path, V2, "1.7")
    old = config_reader.Target(machine.target.main, settings_view.Release(1, 6))

    with pytest.raises(settings_view.ConfigError, match=r"1\.7 or newer"):
        apply.set_up(machine.host, old, WANTED)


def test_k3s_that_has_rendered_our_template_is_set_up_already(tmp_path: pathlib.Path) -> None:
    machine = machines.make(tmp_path / "node", "k3s-1.7", "1.7")
    before = machine.files()
    set_up(machine)
    template = machine.config.with_name("config.toml.tmpl").read_text()
    rendered = template.replace('{{ template "base" . }}\n', machine.config.read_text())
    machine.config.write_text(rendered)

    assert not set_up(machine).changed
    undo(machine)
    name = "var/lib/rancher/k3s/agent/etc/containerd/config.toml"
    assert machine.files() == {**before, name: rendered.encode()}


def test_a_template_of_the_person_s_own_is_kept(tmp_path: pathlib.Path) -> None:
    machine = machines.make(tmp_path / "node", "k3s-1.7", "1.7")
    template = machine.config.with_name("config.toml.tmpl")
    own = '{{ template "base" . }}\n[metrics]\n  address = "127.0.0.1:1338"\n'
    template.write_text(own)
    set_up(machine)
    assert template.read_text().startswith(own)
    template.write_text(template.read_text() + "# edited\n")

    undo(machine)

    assert template.read_text() == own + "# edited\n"


def test_k3s_without_a_drop_in_folder_uses_one_after_its_upgrade(tmp_path: pathlib.Path) -> None:
    machine = machines.make(tmp_path / "node", "k3s-2-no-drop-ins", "2")
    before = machine.files()
    set_up(machine)
    template = machine.config.with_name("config-v3.toml.tmpl")
    rendered = machine.config.read_text()
    machine.config.write_text(template.read_text().replace(file_edits.TEMPLATE_HEAD, rendered))
    assert not set_up(machine).changed
    upgraded = machines.make(tmp_path / "upgraded", "k3s-2", "2").config.read_text()
    machine.config.write_text(template.read_text().replace(file_edits.TEMPLATE_HEAD, upgraded))

    assert set_up(machine).changed

    assert not template.exists()
    assert machine.config.with_name("config-v3.toml.d").joinpath(inputs.DROP_IN).exists()
    machine.config.write_text(rendered)
    undo(machine)
    assert machine.files() == before


def test_k3s_that_cannot_be_told_what_a_pull_needs_is_refused(tmp_path: pathlib.Path) -> None:
    machine = machines.make(tmp_path / "node", "k3s-2-no-drop-ins", "2")
    text = machine.config.read_text().replace("use_local_image_pull = true", "")
    machine.config.write_text(text)

    with pytest.raises(settings_view.ConfigError, match="upgrade it"):
        set_up(machine)


def test_a_damaged_journal_is_named(tmp_path: pathlib.Path) -> None:
    machine = machines.write(tmp_path, V2, "2")
    set_up(machine)
    (machine.config.parent / journal.FOLDER / journal.NAME).write_text("{")

    with pytest.raises(journal.JournalError, match=r"journal\.json"):
        undo(machine)
