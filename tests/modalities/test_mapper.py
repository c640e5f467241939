"""Files are looked into several at a time, and nobody sees it."""

import threading
import time

import pytest

from modalities.mapper import AT_ONCE, threads


def test_answers_come_in_the_order_of_the_items():
    def look(item):
        time.sleep(0.002 * (item % 7))
        return item * item

    assert list(threads(look, range(100))) == [item * item for item in range(100)]
    assert list(threads(look, [])) == []


def test_as_many_at_a_time_as_are_promised_and_no_more():
    lock, now, most = threading.Lock(), 0, 0

    def look(_):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1

    list(threads(look, range(5 * AT_ONCE)))
    assert most == AT_ONCE


def test_items_are_taken_as_they_are_needed():
    taken = []

    def items():
        for item in range(1000):
            taken.append(item)
            yield item

    found = threads(str, items())
    assert [next(found) for _ in range(3)] == ["0", "1", "2"]
    assert len(taken) <= 2 * AT_ONCE + 3
    found.close()


def test_what_one_raises_ends_it_and_nobody_waits_for_the_others():
    seen, over = [], threading.Event()

    def look(item):
        seen.append(item)
        if item == 3:
            raise ValueError("the fourth")
        if item > 3:
            over.wait(60)  # a large file, say

    began = time.monotonic()
    with pytest.raises(ValueError, match="the fourth"):
        list(threads(look, range(10_000)))
    assert time.monotonic() - began < 30
    assert len(seen) <= 4 + AT_ONCE
    over.set()
