"""Which records are looked up for a pod, and which are taken for its images."""

from agent.matching import subjects
from tests.unit.matching import making

TARGET = making.target("nginx", "ab")


def test_a_digest_is_looked_up_under_the_tags_that_have_it_too() -> None:
    wanted = subjects.references_to_look_up(
        making.pod(f"nginx@{TARGET}", "redis", "NOT AN IMAGE"),
        [making.cache("imc-a12", [("nginx:1", "ab"), ("nginx:2", "ac"), ("other:1", "ab")])],
    )

    assert [str(reference) for reference in wanted] == [
        f"docker.io/library/nginx@{TARGET}",
        "docker.io/library/redis:latest",
        "docker.io/library/nginx:1",
    ]


def test_the_same_digest_of_another_repository_is_another_image() -> None:
    record = making.image("other:1", "ab")

    assert subjects.subject_of(f"nginx@{TARGET}", {record.ref: record}, None).record is None


def test_a_record_under_the_digest_with_another_target_is_not_believed() -> None:
    record = making.image("nginx", "ac")
    name = f"docker.io/library/nginx@{TARGET}"

    assert subjects.subject_of(name, {name: record}, None).record is None
