"""Folders on shared mounts, where nothing has made `/` one."""

import json
import subprocess
import sys

import pytest

from agent.setup.config import settings_view
from agent.setup.node import shared_mounts

TABLE = """\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 21 0:30 / /run rw,nosuid - tmpfs tmpfs rw
31 30 0:31 / /run/a\\040b rw shared:7 master:2 - tmpfs tmpfs rw
32 21 0:32 / /var/lib rw master:3 - ext4 /dev/vdb rw
"""


@pytest.mark.parametrize(
    ("folder", "shared"),
    [
        ("/etc/x", True),
        ("/run/x", False),
        ("/run/a b/x", True),
        ("/var/lib/uimgacc", False),
        ("/var/library", True),
    ],
)
def test_the_mount_that_a_folder_lies_on_tells(folder: str, shared: bool) -> None:
    assert shared_mounts.is_shared(TABLE, settings_view.Path(folder)) is shared


def test_the_topmost_of_mounts_on_one_another_tells() -> None:
    table = "1 0 0:1 / /a rw shared:1 - x x rw\n2 1 0:2 / /a rw - x x rw\n"

    assert not shared_mounts.is_shared(table, settings_view.Path("/a/b"))


SCRIPT = """
import json, sys
from agent.setup.config import settings_view
from agent.setup.node import shared_mounts

folders = [settings_view.Path(sys.argv[1])]
done = [len(shared_mounts.share(folders, in_container=False)) for _ in range(2)]
text = open("/proc/self/mountinfo").read()
print(json.dumps([*done, shared_mounts.is_shared(text, folders[0] / "below")]))
"""


@pytest.mark.root
def test_a_folder_is_shared_once_on_a_machine_whose_root_is_private(tmp_path) -> None:
    folder = tmp_path / "new" / "folder"
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    # A mount namespace of its own ends with the process, and what it mounts with it.
    command = ["unshare", "--mount", "--propagation", "private"]
    done = subprocess.run(
        [*command, sys.executable, script, folder], capture_output=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [1, 0, True]
