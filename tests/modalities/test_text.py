import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modalities.base import Rejected
from modalities.text import EXCERPT, Text

text = Text()


@given(st.text())
def test_text_survives_or_is_blank(document):
    payload = document.encode()
    if any(c.isalnum() for c in document):
        assert text.decode(payload) == document.removeprefix("\ufeff")
    elif not document.strip():
        with pytest.raises(Rejected, match="blank"):
            text.decode(payload)


@pytest.mark.parametrize("blank", [b"", b" \n\t\r ", b"\xef\xbb\xbf", "\u00a0\u2003".encode(), b"\x00\x00"])
def test_blank_is_rejected(blank):
    with pytest.raises(Rejected, match="empty or blank"):
        text.decode(blank)


def test_what_is_not_utf8_is_rejected():
    with pytest.raises(Rejected, match="not valid UTF-8"):
        text.decode(b"caf\xe9")


def test_byte_order_mark_is_no_part_of_the_text():
    assert text.decode(b"\xef\xbb\xbfhello") == "hello"


@given(st.text())
def test_show_is_short_and_escaped(document):
    fragment = text.show(document.encode(), "<uri>")
    assert fragment.count("<") == fragment.count(">") == 2
    assert len(re.sub(r"&[a-z#0-9]+;", "_", fragment)) < EXCERPT + 100


def test_describe_and_suffix():
    assert text.describe("héllo", "héllo".encode()) == {"characters": 5}
    assert text.suffix(b"x") == ".txt"
