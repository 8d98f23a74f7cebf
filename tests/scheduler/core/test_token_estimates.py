from headway_scheduler.core.runs.token_estimates import TOKENS, Estimates
from headway_scheduler.model.batch import Lesson
from headway_scheduler.model.calls import LARGEST_READ_COUNT, Usage


def taught(count: int = 40) -> tuple[Estimates, dict[str, Lesson]]:
    estimates, kept = Estimates(), dict[str, Lesson]()
    for number in range(count):
        usage = Usage(300, 90 if number % 2 else 110)
        for lesson in estimates.learn("writer", "m", 1_000, usage):
            kept[lesson.subject] = lesson
    return estimates, kept


def test_a_model_that_is_new_takes_four_characters_a_token_and_the_cap() -> None:
    estimates = Estimates()
    assert estimates.of("writer", "m", 1_001, 50) == Usage(251, 50)
    assert estimates.of("writer", "m", 0, None).input_tokens == 1


def test_it_learns_by_agent_and_model_and_knows_the_model_for_a_new_agent() -> None:
    estimates, _ = taught()
    for path in ("writer", "critic"):
        expected = estimates.of(path, "m", 2_000, None)
        assert 590 <= expected.input_tokens <= 610
        assert 100 < expected.output_tokens < 120  # a standard deviation above the mean
    assert estimates.of("writer", "m", 2_000, 60).output_tokens == 60
    assert estimates.of("writer", "other", 2_000, None).input_tokens == 500


def test_what_was_written_down_gives_nearly_the_same_and_not_every_call_is_written() -> None:
    estimates, kept = taught()
    again = Estimates()
    for lesson in kept.values():
        assert lesson.kind == TOKENS
        again.load(lesson)
    was, now = (each.of("writer", "m", 2_000, None) for each in (estimates, again))
    assert abs(was.output_tokens - now.output_tokens) <= 5
    assert abs(was.input_tokens - now.input_tokens) <= 12
    assert again.learn("writer", "m", 1_000, Usage(300, now.output_tokens - 9)) == []


def test_usage_that_nobody_reported_teaches_nothing() -> None:
    assert Estimates().learn("writer", "m", 1_000, Usage(0, 0)) == []


def test_an_estimate_is_never_larger_than_a_count_that_is_believed() -> None:
    estimates = Estimates()
    most = LARGEST_READ_COUNT
    estimates.learn("a", "m", 1, Usage(most, most))
    assert estimates.of("a", "m", 10**9, None) == Usage(most, most)
    assert estimates.of("b", "new", 10**12, 10**15) == Usage(most, most)


def test_a_cap_of_nothing_is_a_cap() -> None:
    estimates, _ = taught()
    for path, model in (("writer", "m"), ("writer", "new")):
        assert estimates.of(path, model, 1_000, 0).output_tokens == 0
