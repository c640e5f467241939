"""Short work on parts is cut by the CPUs that are there, or by its length, whichever makes more tasks."""

import pytest

from pipelines.groups import PARTS_A_TASK, runs


@pytest.mark.parametrize("cpus", [0, 1, 2, 7, 1000])
@pytest.mark.parametrize("parts", [0, 1, 2, 15, 1000, 3 * PARTS_A_TASK + 1])
def test_every_part_is_in_one_group_and_no_task_is_without(parts, cpus):
    found = runs(range(parts), cpus)
    assert [part for group in found for part in group] == [*range(parts)]
    assert all(0 < len(group) <= PARTS_A_TASK for group in found)
    assert max(map(len, found), default=0) - min(map(len, found), default=0) <= 1


def test_few_parts_ask_for_no_more_than_is_there_and_many_for_what_they_are_worth():
    assert len(runs(range(15), 2)) == 2
    assert len(runs(range(100 * PARTS_A_TASK), 2)) == 100
