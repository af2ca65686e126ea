from agent.node.health import capability

CHECK = capability.Check.STORE
GOOD = [capability.Finding(CHECK)]
BAD = [capability.Finding(CHECK, "the store does not answer")]
PATIENCE = capability.Patience(to_win=2, to_lose=3)


def after(*looks: list[capability.Finding], capable: bool = False) -> capability.Verdict:
    verdict = capability.Verdict(capable=capable)
    for findings in looks:
        verdict = capability.judge(verdict, findings, PATIENCE)
    return verdict


def test_a_node_is_capable_after_as_many_good_looks_as_it_takes() -> None:
    assert not after(GOOD).capable
    assert after(GOOD, GOOD).capable


def test_one_late_answer_does_not_take_it_away() -> None:
    assert after(BAD, BAD, GOOD, BAD, BAD, capable=True).capable
    assert not after(BAD, BAD, BAD, capable=True).capable


def test_a_problem_is_shown_while_the_verdict_still_stands() -> None:
    verdict = after(BAD, capable=True)

    assert verdict.capable
    assert verdict.sentence == "the store does not answer"


def test_a_good_look_forgets_the_problem() -> None:
    assert after(BAD, GOOD, capable=True).problems == {}


def test_one_bad_check_among_good_ones_is_enough() -> None:
    mixed = [*GOOD, capability.Finding(capability.Check.KERNEL, "the kernel lacks erofs")]
    verdict = after(mixed, mixed, mixed, capable=True)

    assert not verdict.capable
    assert list(verdict.problems) == [capability.Check.KERNEL]
