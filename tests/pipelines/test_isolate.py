"""Halving finds exactly what kills, and costs nothing else, whatever dies by accident meanwhile."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.isolate import TRIES, Died, Hopeless, isolate


@given(st.integers(0, 300), st.data())
def test_what_kills_is_lost_and_everything_else_is_done_once(n, data):
    deadly = data.draw(st.sets(st.integers(0, max(n - 1, 0)), max_size=2)) & set(range(n))

    def attempt(rows):
        if deadly & set(rows):
            raise Died("killed")
        return list(rows)

    done, lost = isolate(range(n), attempt)
    assert set(lost) == deadly
    assert all(list(rows) == given for rows, given in done)
    assert [row for rows, _ in done for row in rows] == [row for row in range(n) if row not in deadly]


@given(st.integers(1, 100), st.lists(st.booleans(), max_size=60))
def test_deaths_by_accident_lose_nothing(n, accidents):
    """As long as they do not strike one row `TRIES` times."""
    accidents = [a and (i % TRIES != 0) for i, a in enumerate(accidents)]

    def attempt(rows):
        if accidents and accidents.pop():
            raise Died("killed by somebody")

    done, lost = isolate(range(n), attempt)
    assert lost == []
    assert [row for rows, _ in done for row in rows] == list(range(n))


def test_one_bad_row_costs_few_deaths():
    deaths = []

    def attempt(rows):
        if 700 in rows:
            deaths.append(len(rows))
            raise Died("killed")

    _, lost = isolate(range(1024), attempt)
    assert lost == [700]
    assert len(deaths) <= 10 + TRIES


@pytest.mark.parametrize("first", [0, 4094])
def test_the_worst_two_rows_are_found(first):
    def attempt(rows):
        if first in rows or first + 1 in rows:
            raise Died("killed")

    assert isolate(range(4096), attempt)[1] == [first, first + 1]


def test_where_everything_dies_it_is_not_the_rows():
    deaths = []

    def attempt(rows):
        deaths.append(rows)
        raise Died("the disk burns")

    with pytest.raises(Hopeless, match="the disk burns"):
        isolate(range(5000), attempt)
    assert len(deaths) < 30
