"""A list held packed is the list, and small."""

import pickle
import random
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modalities import packed, shelf
from modalities.base import Part
from modalities.packed import Packed, ordered
from modalities.sources.paths import File

ESCAPES = st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"])
NAMES = st.text(st.characters(exclude_categories=["Cs"]) | ESCAPES, max_size=5)
"""With lone surrogates, as names that are not UTF-8 have them."""


@given(
    items=st.lists(NAMES, max_size=40), block=st.integers(1, 9), index=st.integers(-45, 45), data=st.data()
)
def test_it_is_the_list(items, block, index, data):
    held = Packed(iter(items), block)
    assert list(held) == items
    assert len(held) == len(items)
    assert bool(held) == bool(items)
    assert held == items == held
    assert held != [*items, "more"]
    chosen = data.draw(st.slices(len(items)))
    assert held[chosen] == items[chosen]
    if -len(items) <= index < len(items):
        assert held[index] == items[index]
    else:
        with pytest.raises(IndexError):
            held[index]
    assert pickle.loads(pickle.dumps(held)) == items


def test_it_differs_where_one_item_does():
    assert Packed([Part(0, {"a": 1})]) == [Part(0, {"a": 1})]
    assert Packed([Part(0, {"a": 1})]) != [Part(0, {"a": 2})]
    assert Packed([1]) != 1


def test_several_may_go_through_it_at_once():
    held = Packed(range(20), 4)
    assert [pair for pair in zip(held, held, strict=True) if pair[0] != pair[1]] == []
    assert [a * b for a in held for b in held] == [a * b for a in range(20) for b in range(20)]


@given(items=st.lists(st.tuples(st.integers(0, 9), st.integers()), max_size=60), run=st.integers(1, 7))
def test_what_is_ordered_is_sorted_and_stable(items, run):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "RUN", run)
        assert list(ordered(iter(items), lambda item: item[0])) == sorted(items, key=lambda item: item[0])


def held_by(make):
    """Bytes that Python holds for what is made, and the most that it held while making it."""
    tracemalloc.start()
    made = make()
    now, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return now, most, made


def test_a_name_costs_a_quarter_of_what_it_does_as_an_object():
    n = 40_000

    def files():
        return (
            File(f"n{i // 1300:08}/n{i // 1300:08}_{i * 7919 % n}.JPEG", 110_000 + i % 977) for i in range(n)
        )

    as_objects, _, _ = held_by(lambda: list(files()))
    now, most, made = held_by(lambda: Packed(files()))
    assert now < as_objects / 4
    assert most < now + 1_000_000  # one block of objects beside it
    assert made[n - 1] == list(files())[-1]


def test_a_long_list_is_on_disk_and_no_longer_in_memory(monkeypatch):
    monkeypatch.setattr(shelf, "ROOM", 100_000)
    draw = random.Random(0)
    names = [draw.randbytes(16).hex() for _ in range(100_000)]
    now, _, made = held_by(lambda: Packed(ordered(iter(names), key=str)))
    assert now < 200_000  # of 1,600,000 bytes that the names have, without the digits
    assert made == sorted(names)
    assert made[50_000] == sorted(names)[50_000]
    assert pickle.loads(pickle.dumps(made)) == made


def test_several_threads_may_look_into_it(monkeypatch):
    monkeypatch.setattr(shelf, "ROOM", 1)
    held = Packed(range(50_000), 64)
    with ThreadPoolExecutor(8) as pool:
        sums = list(pool.map(lambda _: sum(held), range(16)))
    assert sums == [sum(range(50_000))] * 16


def test_what_is_ordered_is_never_held_as_objects_alone(monkeypatch):
    monkeypatch.setattr(packed, "RUN", 4096)
    n = 100_000

    def names():
        return (f"{i * 7919 % n:08}.jpg" for i in range(n))

    as_objects, _, expected = held_by(lambda: sorted(names()))
    _, most, found = held_by(lambda: Packed(ordered(names(), key=str)))
    assert found == expected
    assert most < as_objects / 2
