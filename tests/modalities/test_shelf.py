"""What is put on a shelf comes back as it was, from memory or from a file."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modalities import shelf
from modalities.shelf import Shelf


@given(pieces=st.lists(st.binary(max_size=20), max_size=20), room=st.integers(0, 50))
def test_every_piece_comes_back_from_its_place(pieces, room):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shelf, "ROOM", max(room, 1))
        held = Shelf()
        places = []
        for piece in pieces:
            places.append(held.put(piece))
            assert held.get(places[0], len(pieces[0])) == pieces[0]
        there = pickle.loads(pickle.dumps(held))
        for piece, place in zip(pieces, places, strict=True):
            assert held.get(place, len(piece)) == there.get(place, len(piece)) == piece


def test_what_is_more_than_there_is_room_for_is_on_disk(monkeypatch):
    monkeypatch.setattr(shelf, "ROOM", 1000)
    held = Shelf()
    held.put(bytes(900))
    assert not held._file._rolled
    held.put(bytes(200))
    assert held._file._rolled
    assert held.get(900, 200) == bytes(200)
