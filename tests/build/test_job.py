"""`uimgacc build` as a Job runs it: a process with flags, files of Secrets, and a report."""

import base64
import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from agent.model import records, reports
from agent.roles import builder
from agent.store import layout
from agent.store.lookup import direct_reader
from agent.store.publish import writer
from lab import services
from lab.web import registries

pytestmark = pytest.mark.skipif(
    not registries.catalogue(), reason="needs the lab's images: run lab/setup"
)

JOB = "imc-test-0-0"


class Job:
    """What the kubelet would start."""

    def __init__(self, folder: pathlib.Path, server: services.Registry, image: str) -> None:
        self.place = layout.Layout(folder / "store")
        writer.create(self.place.root)
        self.secrets = folder / "secrets"
        self.secrets.mkdir()
        self.message = folder / "message"
        self.message.touch()
        self.arguments = [
            *("--store", str(self.place.root), "--cache-id", "imc-test", "--name", "test"),
            *("--image", f"{server.address}/{image}", "--platform", str(builder.own_platform())),
            *("--capacity-gib", "20", "--plain-http", server.address, "--job", JOB),
            *("--registry-allow", server.address),
            *("--docker-configs", str(self.secrets)),
            *("--termination-message", str(self.message)),
        ]

    def start(self, *more: str) -> subprocess.Popen[str]:
        code = "from agent.cli.entry import main; main()"
        return subprocess.Popen(
            [sys.executable, "-c", code, "build", *self.arguments, *more],
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *more: str) -> tuple[int, str]:
        process = self.start(*more)
        said = process.communicate(timeout=60)[1]
        return process.returncode, said

    @property
    def report(self) -> reports.Report:
        return reports.decode(self.place.build_report(JOB).read_bytes(), JOB)


def test_a_private_image_is_built_with_the_secret_that_is_mounted(tmp_path) -> None:
    with services.Registry(tmp_path / "registry", users={"alice": "opensesame"}) as server:
        job = Job(tmp_path, server, "lab/gzip:1")
        code, said = job.run()
        assert (code, job.message.read_text()) == (1, job.report.result.reason)
        assert "without credentials" in job.report.result.reason

        auth = base64.b64encode(b"alice:opensesame").decode()
        config = {"auths": {server.address: {"auth": auth}}}
        (job.secrets / "0.json").write_text(json.dumps(config))
        code, said = job.run("--namespace", "default")

    record = direct_reader.Reader(job.place).cache("imc-test")
    assert (code, record.namespaces) == (0, ["default"])
    # It vouches for all that it has built, also for layers that stand below variants.
    stored = sorted(f"sha256:{path.stem}" for path in job.place.layer_files.rglob("*.erofs"))
    assert job.report == reports.Report(
        percent=100,
        images=[record.images[0].ref],
        step=job.report.step,
        result=reports.Result(cache=record, layers=stored),
    )
    texts = [said, *(path.read_text() for path in job.place.root.glob("**/*.json"))]
    assert not [text for text in texts if "opensesame" in text or auth in text]


def test_the_report_grows_and_a_stop_says_so(tmp_path) -> None:
    with services.Registry(tmp_path / "registry") as server:
        job = Job(tmp_path, server, "lab/large:1")
        job.place.build_report(JOB).write_bytes(reports.encode(reports.Report()))
        process = job.start()
        seen = set()
        deadline = time.monotonic() + 60
        while not any(0 < percent < 100 for percent in seen) and time.monotonic() < deadline:
            seen.add(job.report.percent)
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)

    assert process.returncode == 1
    assert any(0 < percent < 100 for percent in seen)
    assert job.message.read_text() == "the build was stopped before it was done"
    assert direct_reader.Reader(job.place).cache("imc-test") is None
    # A node that is drained is no failure: the Job's next pod goes on, and reports.
    assert job.report.result is None


def test_a_wrong_flag_is_told_before_anything_is_done(tmp_path) -> None:
    with services.Registry(tmp_path / "registry") as server:
        job = Job(tmp_path, server, "lab/gzip:1")
        code, said = job.run("--image", "Not/An:Image")

    assert (code, "not an image reference" in said) == (2, True)
    assert list(job.place.cache_records.iterdir()) == []


@pytest.mark.parametrize("image", ["169.254.169.254/latest/meta-data:1", "localhost:1/app:1"])
def test_an_image_at_the_builder_s_own_host_is_refused(tmp_path, image: str) -> None:
    """What a pod may name: no cloud's metadata service and no neighbour of the builder is asked."""
    with services.Registry(tmp_path / "registry") as server:
        job = Job(tmp_path, server, "lab/gzip:1")
        code, _ = job.run("--image", image, "--plain-http", image.partition("/")[0])

    assert code == 1
    assert "where builds connect to no registry" in job.message.read_text()
    assert "UIMGACC_REGISTRY_ALLOW" in job.message.read_text()


def test_a_store_that_is_none_is_the_reason(tmp_path) -> None:
    with services.Registry(tmp_path / "registry") as server:
        job = Job(tmp_path, server, "lab/gzip:1")
        job.place.store_record.unlink()
        code, _ = job.run()

    assert (code, "store.json" in job.message.read_text()) == (1, True)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a/b", "A", "-a", "a" * 64])
def test_no_report_is_written_elsewhere(tmp_path, name: str) -> None:
    with pytest.raises(records.RecordError):
        layout.Layout(tmp_path).build_report(name)
