"""A run directory on any path that fsspec opens, written so that no reader sees half a file."""

from __future__ import annotations

import errno
import io
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from modalities.sources.plain import unsafe_column
from modalities.sources.secrets import redacted
from pipelines.errors import RequestError, RunError

for _protocol in ("s3", "s3a"):  # imported when it is used: it needs the extra `aws`
    fsspec.register_implementation(
        _protocol, "pipelines.s3:S3", clobber=True, errtxt="install evenset[aws] to read and write s3://"
    )

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_absolute(path: str) -> bool:
    """Whether ``path`` is a URL, or a local path that no working directory can change."""
    return "://" in path or Path(path).expanduser().is_absolute()


def absolute(path: str) -> str:
    """``path`` so that it means the same in every worker: URLs as they are, local paths absolute."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111


class Store:
    """One run directory. Holds nothing but its URL, so it travels to workers as it is.

    A file appears whole or not at all: on a local disk it is written beside its place and moved
    there with a rename, on an object store it is one PUT, or an upload in parts that is completed last.

    Args:
        url: A local path or any URL that fsspec opens (``s3://``, ``gs://``, ``hf://``, ``memory://``).
    """

    def __init__(self, url: str) -> None:
        self.url = absolute(url).rstrip("/") or "/"

    def __repr__(self) -> str:
        return f"Store({redacted(self.url)!r})"

    @property
    def filesystem(self) -> fsspec.AbstractFileSystem:
        """The filesystem behind the URL (fsspec keeps one instance a process)."""
        return self._opened()[0]

    def _opened(self) -> tuple[fsspec.AbstractFileSystem, str]:
        try:
            filesystem, root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise RequestError(f"output {self.url} cannot be opened: {error}") from error
        return filesystem, root

    @property
    def local(self) -> Path | None:
        """The run directory as a local path, or None where it is on an object store."""
        filesystem, root = self._opened()
        return Path(root) if isinstance(filesystem, LocalFileSystem) else None

    def path(self, rel: str) -> str:
        """The path of ``rel`` in the filesystem's own words (without the protocol)."""
        root = self._opened()[1]
        return f"{root.rstrip('/')}/{rel}" if rel else root

    def place(self, rel: str) -> Path:
        """Where ``rel`` lies on the local disk, to write it there or to delete it.

        Raises:
            RunError: A link on the way leads out of the run directory, which may come from somebody else.
        """
        assert self.local is not None
        target = self.local / rel
        leads = target.parent.resolve()
        if not leads.is_relative_to(self.local.resolve()):
            raise RunError(
                f"{target} lies outside the run directory, in {leads}: remove the link that leads there, or"
                " choose another output"
            )
        return target

    def exists(self, rel: str) -> bool:
        """Whether there is a file or folder at ``rel``."""
        return bool(self.filesystem.exists(self.path(rel)))

    def list(self, rel: str, suffix: str = ".parquet") -> list[str]:
        """Sorted paths, relative to the run, of the files right in folder ``rel`` that end in ``suffix``."""
        filesystem, folder = self.filesystem, self.path(rel)
        filesystem.invalidate_cache()  # other machines write into the same folder
        try:
            entries = filesystem.ls(folder, detail=True)
        except FileNotFoundError:
            return []
        names = (e["name"].rsplit("/", 1)[-1] for e in entries if e["type"] == "file")
        # a name that starts with a dot is a temporary file of a writer that was killed
        wanted = sorted(n for n in names if n.endswith(suffix) and not n.startswith("."))
        return [f"{rel}/{name}" if rel else name for name in wanted]

    def read_bytes(self, rel: str) -> bytes:
        """The content of one file. Raises ``FileNotFoundError``."""
        return bytes(self.filesystem.cat_file(self.path(rel)))

    def write_bytes(self, rel: str, data: bytes) -> None:
        """Write one file whole or not at all, making the folders above it."""
        if self.local is None:
            self.filesystem.pipe_file(self.path(rel), data)
            return
        target = self.place(rel)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        with _full_disk_told(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())  # a rename may reach the disk before the data does
                temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def read_table(self, rel: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One Parquet file as a table, or only the named ``columns`` of it.

        Raises:
            RunError: It is no Parquet file, lacks a column, or was written by something else.
        """
        with self._parquet(rel) as file:
            lacking = set(columns or ()) - set(file.schema_arrow.names)
            if lacking:
                raise RunError(_foreign(self.url, rel, f"it has no column {sorted(lacking)[0]!r}"))
            return file.read(columns=columns)

    @contextmanager
    def _parquet(self, rel: str) -> Iterator[pq.ParquetFile]:
        """A Parquet file whose values may be looked at, whoever wrote it."""
        with self.filesystem.open(self.path(rel), "rb") as stream:
            try:
                file = pq.ParquetFile(stream)
                if found := unsafe_column(file.schema_arrow):
                    why = "column {!r} is of the extension type {!r}, which a run never writes".format(*found)
                    raise RunError(_foreign(self.url, rel, why))
                yield file
            except (pa.ArrowException, OSError) as error:
                if getattr(error, "errno", None) is not None:  # of the disk or the network, not of the file
                    raise
                raise RunError(_foreign(self.url, rel, " ".join(str(error).split()))) from error

    def write_table(self, rel: str, table: pa.Table) -> None:
        """Write ``table`` as one Parquet file (zstd), whole or not at all."""
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        self.write_bytes(rel, buffer.getvalue())

    def rows(self, rel: str) -> int:
        """Number of rows of a Parquet file, from its footer."""
        return int(self.metadata(rel).num_rows)

    def dimensions(self, rel: str) -> int:
        """Length of an embedding of a Parquet file of embeddings, from its footer."""
        with self._parquet(rel) as file:
            found = file.schema_arrow.names.count("embedding") == 1
            kind = file.schema_arrow.field("embedding").type if found else None
            if kind is None or not pa.types.is_fixed_size_list(kind):
                raise RunError(_foreign(self.url, rel, "it has no column of embeddings"))
            return int(kind.list_size)

    def metadata(self, rel: str) -> pq.FileMetaData:
        """The footer of a Parquet file."""
        with self._parquet(rel) as file:
            return file.metadata

    def delete(self, rel: str) -> None:
        """Delete a file or a whole folder; nothing happens where there is none."""
        if self.local is not None and self.place(rel).is_symlink():
            self.place(rel).unlink()  # the link, and not what it leads to
            return
        filesystem, path = self.filesystem, self.path(rel)
        if filesystem.exists(path):
            filesystem.rm(path, recursive=True)

    def append_line(self, rel: str, line: str) -> None:
        """Add a line to a text file (a log: on an object store the file is written anew)."""
        if self.local is None:
            old = self.read_bytes(rel) if self.exists(rel) else b""
            self.write_bytes(rel, old + line.encode() + b"\n")
            return
        target = self.place(rel)
        with _full_disk_told(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with open_own(target) as file:
                file.write(line + "\n")


def open_own(path: Path) -> TextIO:
    """Open a text file to append to it; one that is a link is an error, for it leads somewhere else.

    Raises:
        RunError: It is a link.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise RunError(f"{path} is a link, and a run does not write through one: remove it") from error
    return os.fdopen(descriptor, "a", encoding="utf-8")


@contextmanager
def _full_disk_told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise disk_full(path) from error


def _foreign(url: str, rel: str, why: str) -> str:
    return (
        f"{url}/{rel} cannot be used ({why}): it is damaged, or this run did not write it; delete"
        f" {rel.rsplit('/', 1)[0]} there and run the same command again, or choose another output"
    )


def disk_full(path: Path) -> RunError:
    """The sentence for a disk on which ``path`` found no room."""
    return RunError(
        f"the disk is full: {path} could not be written: make room, and run the same command again to go on"
        " from here"
    )
