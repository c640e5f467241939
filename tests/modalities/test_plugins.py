"""A modality or an encoder of somebody else's: found by name or by class, and harmless where it is broken."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import modalities
from modalities import ModalityError, plugins, registry
from modalities.base import Record, Source
from modalities.encoders.patches import Patches
from modalities.image import Image
from modalities.listing import modalities as listed
from modalities.text import Text

from .distributions import install, modality

POEM = "from modalities.text import Text\nclass Poem(Text):\n    name = 'poem'\n"


def test_a_plugin_is_a_modality_like_any_other(site):
    install(site, "evenset-poem", modality("poem", "poem_plugin:Poem"), "1.2", poem_plugin=POEM)
    assert modalities.modality("poem").name == "poem"
    (row,) = [row for row in listed() if row.name == "poem"]
    assert (row.kind, row.origin, row.problem) == ("text", "evenset-poem 1.2", None)
    assert ".txt" in row.reads


def test_of_two_plugins_with_one_name_the_error_names_both(site):
    install(site, "one-poem", modality("poem", "poem_plugin:Poem"), poem_plugin=POEM)
    install(site, "two-poems", modality("poem", "others:Poem"), "3.1")
    with pytest.raises(ModalityError, match=r"one-poem 1\.0 .*and two-poems 3\.1"):
        modalities.modality("poem")
    assert modalities.modality("poem_plugin:Poem").name == "poem"  # the way out that it names
    (row,) = [row for row in listed() if row.name == "poem"]
    assert row.origin == "one-poem 1.0 and two-poems 3.1"
    assert "uninstall one" in row.problem


def test_nobody_takes_the_name_of_a_built_in(site):
    points = modality("image", "poem_plugin:Poem") + "[evenset.encoders]\npatches = poem_plugin:Poem\n"
    install(site, "taker", points, poem_plugin=POEM)
    with pytest.raises(ModalityError, match=r"'image' is brought by evenset .* and taker 1\.0"):
        modalities.modality("image")
    with pytest.raises(ModalityError, match=r"'patches' is brought by evenset .* and taker 1\.0"):
        modalities.encoder("patches", Image())
    assert modalities.modality("text").name == "text"


BROKEN = {
    "raises": ("1 / 0\n", "ZeroDivisionError"),
    "exits": ("raise SystemExit(3)\n", "SystemExit"),
    "two lines": ("raise ValueError('one\\n  two')\n", "one two"),
    "no module": (None, "ModuleNotFoundError"),
    "no class": ("x = 1\n", "AttributeError"),
    "no modality": ("class Poem:\n    name = 'poem'\n", "no subclass of modalities.Modality"),
    "lacks": ("from modalities import Modality\nclass Poem(Modality):\n    name = 'poem'\n", "lacks kind"),
    "abstract": (
        "from modalities import Modality\nclass Poem(Modality):\n    name = 'poem'\n",
        "show, suffix",
    ),
    "needs": (POEM + "    def __init__(self, a):\n        pass\n", "TypeError"),
    "other name": (POEM.replace("'poem'", "'ode'"), "calls itself 'ode'"),
    "column": (POEM + "    columns = {'id': None}\n", "column 'id'"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_plugin_costs_only_itself(site, how):
    text, said = BROKEN[how]
    install(site, "broken", modality("poem", "broken_poem:Poem"), **({"broken_poem": text} if text else {}))
    assert {"image", "text"} <= {row.name for row in listed() if row.problem is None}
    (row,) = [row for row in listed() if row.name == "poem"]
    assert said in row.problem
    assert "broken 1.0" in row.problem
    assert "\n" not in row.problem
    with pytest.raises(ModalityError, match="broken 1.0"):
        modalities.modality("poem")
    assert modalities.modality("text").name == "text"


def test_a_class_of_the_working_directory(tmp_path, monkeypatch, site):
    folder = tmp_path / "work" / "verses"
    folder.mkdir(parents=True)
    (folder / "forms.py").write_text(POEM)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(plugins, "_named", set())
    assert modalities.modality("verses.forms:Poem").name == "poem"
    assert plugins.named() == ["verses"]
    before = plugins.code_of("verses")
    assert before is not None
    (folder / "metre.py").write_text("feet = 5\n")
    assert plugins.code_of("verses") not in (None, before)
    assert plugins.code_of("nowhere") is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere:Poem", "no module 'nowhere' either, neither installed nor in the working directory"),
        ("json:Poem", "AttributeError"),
        ("json.nowhere:Poem", "ModuleNotFoundError"),
        ("json:JSONDecoder", "no subclass of modalities.Modality"),
        ("text:x", "takes no argument"),
        ("modalities.text:Text:x", "takes no argument"),
        ("../text:Text", "is unknown"),
    ],
)
def test_a_class_that_is_none_is_explained(name, said):
    with pytest.raises(ModalityError, match=said):
        modalities.modality(name)


class Halves(Patches):
    """An encoder with an argument."""

    def __init__(self, argument="", **options):
        super().__init__(**options)
        if argument == "broken":
            raise KeyError("what is missing")
        self.spec = argument


def test_an_encoder_by_its_class():
    me = f"{__name__}:Halves"
    assert modalities.encoder(f"{me}:a/b:c", Image(), batch_size=7).spec == "a/b:c"
    assert modalities.encoder(me, Image()).spec == ""
    with pytest.raises(ModalityError, match="raster samples, but modality 'text'"):
        modalities.encoder(me, Text())
    with pytest.raises(ModalityError, match="KeyError: 'what is missing'"):
        modalities.encoder(f"{me}:broken", Image())
    with pytest.raises(ModalityError, match="is broken"):
        modalities.encoder("types:SimpleNamespace:", Image())
    with pytest.raises(ModalityError, match="no module 'ptches'"):
        modalities.encoder("ptches:Halves", Image())


def test_the_command_starts_and_lists_what_is_broken(tmp_path):
    site = install(tmp_path, "broken", modality("poem", "broken_poem:Poem"), broken_poem="1 / 0\n")
    install(tmp_path, "poems", modality("ode", "odes:Ode"), odes=POEM.replace("'poem'", "'ode'"))
    for arguments in (["--version"], ["modalities"]):
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", *arguments],
            env=os.environ | {"PYTHONPATH": str(site)},
            cwd=Path(registry.__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        )
    lines = done.stdout.splitlines()
    for name, told in [("image", "patches"), ("text", ".md"), ("ode", "poems 1.0"), ("poem", "broken 1.0")]:
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert told in line
    assert any("'poem' (of broken 1.0) is broken" in line and "ZeroDivisionError" in line for line in lines)


class Pairs(Source):
    """Files whose two halves are a sample each."""

    def __init__(self, root, names):
        self._root, self._names = root, names

    def parts(self, mapper=None):
        return [
            modalities.Part(i, {"file": name, "start": 0, "stop": 2}) for i, name in enumerate(self._names)
        ]

    def read(self, part):
        fs, path = self._root.join(part.spec["file"])
        content = fs.cat_file(path)
        for row, half in enumerate((content[: len(content) // 2], content[len(content) // 2 :])):
            yield Record(f"{part.spec['file']}#{row}", self._root.uri(part.spec["file"]), half)

    def unread(self, part, reason):
        return iter(())


class Paired(Text):
    """A modality with a format of its own."""

    name = "paired"
    formats = {"pairs": (".pair",)}  # noqa: RUF012

    def open(self, format, listing, part_rows):
        return Pairs(listing.root, [file.name for file in listing.having(self.formats[format])])


@pytest.mark.parametrize("format", ["auto", "pairs"])
def test_a_format_of_its_own(tmp_path, format):
    (tmp_path / "a.pair").write_text("onetwo")
    (tmp_path / "b.pair").write_text("threefour!")
    (tmp_path / "README.md").write_text("x")
    source = modalities.source(format, str(tmp_path), modality=Paired())
    found = {r.id: r.payload for part in source.parts() for r in source.read(part)}
    assert found == {"a.pair#0": b"one", "a.pair#1": b"two", "b.pair#0": b"three", "b.pair#1": b"four!"}
    with pytest.raises(ModalityError, match="'pairs' is unknown; there are"):
        modalities.source("pairs", str(tmp_path), modality=Text())
    with pytest.raises(ModalityError, match="no meaning for source.format 'pairs'"):
        modalities.source("pairs", str(tmp_path), modality=Paired(), id_column="id")


def test_strings_are_samples_where_the_modality_says_so(tmp_path):
    class Formula(Image):
        strings_are_samples = True

    (tmp_path / "a.jsonl").write_text('{"image": "C2H5OH"}\n')
    for kind, payload in [(Formula(), b"C2H5OH"), (Image(), None)]:
        source = modalities.source("auto", str(tmp_path), modality=kind)
        (record,) = source.read(source.parts()[0])
        assert record.payload == payload
