"""Tars made for tests: written by the standard library, in every dialect that it knows."""

import io
import tarfile


def tar_of(found, form=tarfile.PAX_FORMAT, end=True):
    """The bytes of a tar of (name or TarInfo, content) pairs, without its end mark on request."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in found:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(content or b"")
            tar.addfile(member, io.BytesIO(content or b""))
        stop = tar.offset
    return buffer.getvalue() if end else buffer.getvalue()[:stop]


def special(name, kind, target=""):
    """A member that is no regular file."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member
