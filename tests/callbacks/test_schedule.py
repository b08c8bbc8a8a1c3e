import pytest

from symbreak.callbacks.schedule import Schedule


def due(schedule, steps):
    previous, found = None, []
    for step in steps:
        if schedule.is_due(step, previous):
            found.append(step)
        previous = step
    return found


def test_every_n_steps():
    assert due(Schedule(3), range(10)) == [0, 3, 6, 9]


def test_log_spaced_is_dense_early_and_even_per_doubling():
    steps = due(Schedule(), range(20_000))
    assert steps[:20] == list(range(20))
    for start in (256, 1024, 8192):
        assert len([step for step in steps if start <= step < 2 * start]) == pytest.approx(16, abs=1)


def test_repeated_steps_are_measured_once_and_jumps_miss_nothing():
    assert due(Schedule(4), [0, 0, 0, 1, 1, 2, 2]) == [0]
    assert due(Schedule(4), [0, 3, 6, 9, 12]) == [0, 6, 9, 12]
    assert due(Schedule(4), [5, 6, 7, 8]) == [5, 8]


@pytest.mark.parametrize("arguments", [{"every_n_steps": 0}, {"per_doubling": 0}])
def test_numbers_must_be_positive(arguments):
    with pytest.raises(ValueError, match="at least 1"):
        Schedule(**arguments)
