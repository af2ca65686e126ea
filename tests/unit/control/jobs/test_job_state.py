"""What Jobs and pods say, as sentences for the person who wants to know why."""

import pytest

from agent.control.jobs import job_state
from agent.control.reconcile import observed, work_queue
from agent.model import keys

META = {
    "name": "j",
    "uid": "u",
    "labels": {keys.JOB_CACHE_ID: "imc-a", **keys.BUILDER_LABELS},
    "annotations": {
        keys.JOB_SPEC: "s",
        keys.JOB_OWNER: "uimgacc.io/tools",
        keys.JOB_PLATFORMS: "a,b",
    },
}


def job(*conditions: dict[str, str], **spec: object) -> dict[str, object]:
    held = [{"status": "True", **condition} for condition in conditions]
    return {"metadata": META, "spec": spec, "status": {"conditions": held}}


def pod(**status: object) -> dict[str, object]:
    labels = {"batch.kubernetes.io/job-name": "j"}
    return {"metadata": {"name": "j-pod", "labels": labels}, "status": status}


def container(**state: object) -> dict[str, object]:
    return pod(containerStatuses=[{"state": state}])


# As the kubelet says it (pkg/kubelet/eviction): the container had no time for a word of its own.
LOW = (
    "The node was low on resource: ephemeral-storage. Threshold quantity: 10737418240, available:"
    " 9Gi. Container build was using 30Gi, request is 8Gi, has larger consumption of"
    " ephemeral-storage"
)
EVICTED = pod(
    phase="Failed",
    reason="Evicted",
    message=f"{LOW}. ",
    containerStatuses=[{"state": {"terminated": {"exitCode": 137}}}],
)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (pod(phase="Running"), ""),
        (container(running={}), ""),
        (container(waiting={"reason": "ContainerCreating"}), ""),
        (container(terminated={"exitCode": 0, "message": "done"}), ""),
        (container(terminated={"exitCode": 1, "message": "no such image\n"}), "no such image"),
        (container(terminated={"exitCode": 137, "reason": "OOMKilled"}), "out of memory"),
        (container(terminated={"exitCode": 137}), "ended with status 137"),
        (
            container(waiting={"reason": "ImagePullBackOff", "message": "Back-off"}),
            "does not start: ImagePullBackOff: Back-off",
        ),
        (
            pod(conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]),
            "finds no node: 0/3 nodes",
        ),
        (pod(phase="Failed", reason="UnexpectedAdmissionError", message="m"), "AdmissionError: m"),
        (
            pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory. "),
            "evicted: The node was low on resource: memory; give builders more memory (docs/",
        ),
        (EVICTED, f"evicted: {LOW}; give builders more local disk (docs/"),
        (pod(phase="Failed"), "no reason is known"),
        (
            pod(
                phase="Failed",
                reason="Terminated",
                containerStatuses=[{"state": {"terminated": {"exitCode": 137}}}],
            ),
            "status 137 (Terminated)",
        ),
    ],
)
def test_a_pod_says_why(body, said: str) -> None:
    found = job_state.reason_of_pod(body)

    assert said in found
    assert bool(found) is bool(said)


FAILED = {"type": "Failed", "reason": "BackoffLimitExceeded", "message": "limit"}
LATE = {"type": "Failed", "reason": "DeadlineExceeded", "message": "too long"}


@pytest.mark.parametrize(
    ("body", "from_pod", "reason"),
    [
        (job(FAILED), "no such image", "no such image"),
        (job({**FAILED, "reason": "PodFailurePolicy"}), "no such image", "no such image"),
        (job(FAILED), "", "BackoffLimitExceeded: limit"),
        (job(LATE), "finds no node", "DeadlineExceeded: too long; finds no node"),
        (job({"type": "Failed"}), "", "the Job failed and gives no reason"),
        (job(), "finds no node", "finds no node"),
    ],
)
def test_a_job_says_why(body, from_pod: str, reason: str) -> None:
    assert job_state.parse(body, from_pod).reason == reason


def test_a_job_is_read() -> None:
    running = job_state.parse(job(suspend=True))
    assert (running.active, running.suspended, running.platforms) == (True, True, ("a", "b"))
    done = job_state.parse(job({"type": "Complete"}))
    assert (done.active, done.succeeded, done.failed) == (False, True, False)


def test_what_a_pod_says_stays_with_its_job() -> None:
    known = observed.Observed(work_queue.Queue(), parallel=4)
    known.put_pod(container(waiting={"reason": "ErrImagePull", "message": "m"}))
    assert "ErrImagePull" in known.put_job(job()).reason

    known.put_pod(container(running={}))
    next_pod = known.job("j")
    assert (next_pod.explained, next_pod.reason) == (False, "")
    assert known.put_job(job()).reason == ""

    known.put_pod(container(terminated={"exitCode": 1, "message": "no room"}))
    known.put_job(job(FAILED))
    known.put_pod(pod(phase="Failed"))
    assert known.jobs_of("imc-a")["j"].failed
    known.drop_job("j")
    assert known.jobs_of("imc-a") == {}


def test_an_eviction_is_told_while_the_next_pod_runs() -> None:
    known = observed.Observed(work_queue.Queue(), parallel=4)
    known.put_job(job())
    known.put_pod(EVICTED)
    known.put_pod(container(running={}))

    running = known.put_job(job())
    assert (running.reason, running.explained) == ("", False)
    assert LOW in running.setback

    # Heard of again, with all pods that there are: of the one that runs, nothing is known to fail.
    again = known.put_pod(EVICTED)
    assert again == running
    known.drop_job("j")
    assert known.put_job(job()).setback == ""


def test_a_job_that_failed_is_explained_by_its_pod_whichever_comes_first() -> None:
    known = observed.Observed(work_queue.Queue(), parallel=4)
    failed = known.put_job(job(FAILED))
    assert (failed.explained, failed.reason) == (False, "BackoffLimitExceeded: limit")

    known.explain_job("j", "no room")
    asked = known.job("j")
    assert (asked.explained, asked.reason) == (True, "no room")
    known.put_pod(container(terminated={"exitCode": 1, "message": "no room"}))
    assert known.put_job(job(FAILED)).reason == "no room"


def body(version: str, uid: str = "u") -> dict[str, object]:
    meta = {"name": "tools", "uid": uid, "resourceVersion": version}
    return {
        "apiVersion": "uimgacc.io/v1",
        "kind": "ImageCache",
        "metadata": meta,
        "spec": {"images": ["a"]},
    }


def test_news_that_is_older_than_what_is_known_is_no_news() -> None:
    known = observed.Observed(work_queue.Queue(), parallel=4)
    newest = known.put_cache(body("10"))

    assert known.put_cache(body("9")) is newest
    assert known.put_cache(body("2", uid="another")).uid == "another"
    known.drop_cache(newest.key, "u")
    assert newest.key in known.caches
    known.drop_cache(newest.key, "another")
    assert known.caches == {}
