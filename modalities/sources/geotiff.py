"""A pool of scenes (GeoTIFF, COG): each is cut into chips by window, and no scene is ever read whole.

A scene is one file with all its bands, or files of one band each that share their name but for its end
(``LT5..._B1.TIF``, ``..._B2.TIF``). Files beside each other may differ in resolution; chips have the grid of
the finest one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from itertools import chain, groupby
from pathlib import PurePosixPath
from typing import Any

from modalities.base import MAX_PIXELS, ModalityError, Part, Record, Rejected, Source
from modalities.chips import Window, pack
from modalities.mapper import Mapper, threads
from modalities.packed import Packed, ordered
from modalities.satellite_settings import SatelliteSettings
from modalities.sources.files import PART_BYTES, PART_ROWS, PARTS_A_BLOCK
from modalities.sources.paths import Listing, list_files, printable
from modalities.sources.patience import OneThread, SlowError
from modalities.sources.scene import BAND_NAME, Reader, Scene, described, open_raster


class GeoTiffSource(Source):
    """One sample a chip; the id is ``scene#x_y_w_h``, a window in pixels of the scene.

    Args:
        listing: the files to choose from.
        options: how scenes are cut.
        suffixes: of files that are scenes, or bands of them.
        part_rows: samples of a part at most.
        max_pixels: values of a chip, or of a block of a file, at most (`Modality.max_pixels`).
    """

    def __init__(
        self,
        listing: Listing,
        options: SatelliteSettings,
        suffixes: Sequence[str],
        part_rows: int = PART_ROWS,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._listing: Listing | None = listing
        self._root = listing.root
        self._paths = listing.paths
        self._options, self._suffixes = options, tuple(suffixes)
        self._part_rows, self._max_pixels = part_rows, max_pixels

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_listing": None}

    def parts(self, mapper: Mapper = threads) -> Sequence[Part]:
        """Cut scenes into parts of at most `part_rows` chips and about `PART_BYTES` bytes of them."""
        listing = self._listing or list_files(self._paths)
        names = Packed(file.name for file in listing.having(self._suffixes))
        if not names:
            raise ModalityError(
                f"The pool is empty: source.path {self._root.url!r} holds no {', '.join(self._suffixes)} file"
                f" ({len(listing.files)} of other kinds)."
            )
        headers = mapper(self._scenes, Packed(_grouped(names)), 0)
        scenes = ordered(chain.from_iterable(headers), key=lambda scene: scene.name)
        return Packed(_parts(scenes, self._part_rows), PARTS_A_BLOCK)

    def read(self, part: Part) -> Iterator[Record]:
        """Cut out the chips of a part; one that cannot be read is a record with a reason."""
        for scene, windows in _cut(part):
            if scene.broken:
                yield self._record(scene, None, None, scene.broken)
                continue
            try:
                with self._opened(scene.files) as (thread, files):
                    made = partial(Reader, scene, files, self._options, self._max_pixels)
                    reader = thread(made)
                    while windows:
                        try:
                            payload, reason = pack(thread(partial(reader.chip, windows[0]))), None
                        except Rejected as why:
                            payload, reason = None, str(why)
                        yield self._record(scene, windows.pop(0), payload, reason)
            except (Rejected, SlowError) as why:  # of the scene; one that does not answer is not asked again
                for window in windows:
                    yield self._record(scene, window, None, str(why))

    def unread(self, part: Part, reason: str) -> Iterator[Record]:
        """Name the chips of a part."""
        for scene, windows in _cut(part):
            wanted: Sequence[Window | None] = windows or [None]
            for window in wanted:
                yield self._record(scene, window, None, scene.broken or reason)

    def _record(
        self, scene: Scene, window: Window | None, payload: bytes | None, reason: str | None
    ) -> Record:
        where = "" if window is None else f"#{'_'.join(map(str, window))}"
        return Record(f"{scene.name}{where}", f"{self._root.uri(scene.files[0])}{where}", payload, reason)

    @contextmanager
    def _opened(self, names: Sequence[str]) -> Iterator[tuple[OneThread, list[Any]]]:
        """The files of a scene, and the thread that alone may read them: GDAL ties them to it.

        Raises:
            Rejected: one of them is gone, or no GeoTIFF.
            SlowError: they do not open in time.
        """
        thread = OneThread(self._root.timeout)
        files: list[Any] = []
        try:
            for name in names:
                files.append(thread(partial(open_raster, self._root, name)))
            yield thread, files
        finally:
            thread.close(partial(_close, files))

    def _scenes(self, group: tuple[str, list[str]]) -> list[Scene]:
        """The scene of a group of files; one each where they turn out to hold more than a band."""
        name, names = group
        label = self._root.label(name)
        if printable(name) != name:
            return [Scene(label, names, broken="The file name is not valid UTF-8.")]
        try:
            with self._opened(names) as (thread, files):
                if len(files) > 1 and any(
                    file.count > 1 and BAND_NAME.fullmatch(PurePosixPath(n).stem)
                    for n, file in zip(names, files, strict=True)
                ):
                    return [scene for n in names for scene in self._scenes((n, [n]))]
                return [thread(lambda: described(label, names, files, self._options, self._max_pixels))]
        except (Rejected, SlowError) as reason:
            return [Scene(label, names, broken=str(reason))]


def _close(files: Sequence[Any]) -> None:
    for file in files:
        file.close()


def _grouped(names: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Scenes by name with their files: those of one band each together, in the order of their bands."""
    for scene, same in groupby(ordered(names, key=_scene), key=_scene):
        files = list(same)
        if len(files) > 1 and any(BAND_NAME.fullmatch(PurePosixPath(file).stem) for file in files):
            yield scene, sorted(files, key=_natural)
        else:
            yield from ((file, [file]) for file in files)


def _scene(name: str) -> str:
    """What the files of a scene would share, were this one of them."""
    path = PurePosixPath(name)
    found = BAND_NAME.fullmatch(path.stem)
    return str(path.with_name(found["scene"]) if found else path.with_suffix(""))


def _natural(name: str) -> list[Any]:
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", name)]


def _parts(scenes: Iterable[Scene], part_rows: int) -> Iterator[Part]:
    """Runs of chips: of one scene, or of several small ones."""
    run: list[Scene] = []
    index, rows, room = 0, 0, PART_BYTES

    def part(scenes: list[Scene], start: int, stop: int) -> Part:
        return Part(index, {"scenes": [asdict(scene) for scene in scenes], "start": start, "stop": stop})

    for scene in scenes:
        count = len(scene)
        if run and (rows + count > part_rows or count * scene.bytes > room):
            yield part(run, 0, rows)
            index, run, rows, room = index + 1, [], 0, PART_BYTES
        most = max(1, min(part_rows, PART_BYTES // max(scene.bytes, 1)))
        if count > most:
            for start in range(0, count, most):
                yield part([scene], start, min(start + most, count))
                index += 1
            continue
        run.append(scene)
        rows, room = rows + count, room - count * scene.bytes
    if run:
        yield part(run, 0, rows)


def _cut(part: Part) -> Iterator[tuple[Scene, list[Window]]]:
    """The scenes of a part, each with those of its windows that are in it; none where it is broken."""
    start, stop = part.spec["start"], part.spec["stop"]
    for spec in part.spec["scenes"]:
        scene = Scene(**spec)
        windows = [] if scene.broken else scene.windows()
        count = len(windows) or 1
        if start < count and stop > 0:
            yield scene, windows[max(0, start) : stop]
        start, stop = start - count, stop - count
