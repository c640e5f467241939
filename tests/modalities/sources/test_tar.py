"""Records of a pax header end, or are damaged."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modalities.sources.tar import Damaged, _pax_records


@pytest.mark.parametrize(
    "data",
    [
        b"path=x.png",
        b"12345678901234567890 path=x",
        b" path=x\n",
        b"0 path=x\n",
        b"2 path=x\n",
        b"99 path=x\n",
    ],
)
def test_a_record_without_a_length_that_fits_is_damage(data):
    with pytest.raises(Damaged):
        list(_pax_records(data))


@given(st.lists(st.sampled_from([b"9 a=bcde\n", b"6 a=b\n", b" ", b"=", b"12", b"\n", b"\0"]), max_size=12))
def test_records_end_whatever_they_say(pieces):
    data = b"".join(pieces)
    with suppress(Damaged):
        assert len(list(_pax_records(data))) <= len(data)


def test_records_are_those_that_were_written():
    assert list(_pax_records(b"14 path=x.png\n9 size=7\n")) == [(b"path", b"x.png"), (b"size", b"7")]
