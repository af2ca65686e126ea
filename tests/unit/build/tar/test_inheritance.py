"""The names of layer files that depend on what stands below them: they are for ever."""

from agent.build.tar import acl, inheritance, stream

DIFF_ID = "sha256:" + "7" * 64
INHERITED = {
    b"tmp": stream.DirInfo(0o1777, 1, 2, 3, 4, ((b"user.k", b"v\xff"), (b"user.l", b""))),
    b"opt/\xe9 '": stream.DirInfo(0o700, 0, 0, -5),
}


def test_the_name_of_a_variant_does_not_change() -> None:
    position = inheritance.Position(INHERITED)

    assert [
        inheritance.variant_id(DIFF_ID, position),
        inheritance.variant_id(DIFF_ID, inheritance.Position(is_bottom=True)),
    ] == [
        "sha256:3156b92151dab2616c3d7cc93a9bbeb9282c2769e75110fdfec9ca8dbcfc14a3",
        "sha256:75fae4205bf7d49d87b186e978b975857136c56c4c61a5fa8e5adbdefae82a4c",
    ]


def test_layers_under_names_of_earlier_versions_are_found() -> None:
    position = inheritance.Position(dict(reversed(INHERITED.items())))

    assert inheritance.names(DIFF_ID, position) == [
        inheritance.variant_id(DIFF_ID, position),
        "sha256:363ae15578b8609512048c76e93b6bec8987416ab4daef3e614644a2ede5811c",
    ]


def test_earlier_versions_had_no_such_files() -> None:
    default = stream.DirInfo(0o755, 0, 0, 0, 0, ((acl.DEFAULT, b""),))
    for position in (
        inheritance.Position({b"tmp": default}),
        inheritance.Position(INHERITED, is_bottom=True),
    ):
        assert len(inheritance.names(DIFF_ID, position)) == 1
