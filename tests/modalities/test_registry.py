import ast
import subprocess
import sys
from pathlib import Path

import pytest

from modalities import MODALITIES, ModalityError, encoder, modality, source

ROOT = Path(__file__).resolve().parents[2]
OF_ONE = {
    *(target.partition(":")[0] for target in MODALITIES.values()),
    *("modalities.satellite_settings", "modalities.chips", "modalities.earth", "modalities.thinning"),
    *("modalities.sources.geotiff", "modalities.sources.scene"),
}
"""Modules of built-in modalities, and those that serve one of them alone."""


def test_built_in_modalities():
    for name in ("image", "text", "satellite"):
        found = modality(name)
        assert found.name == name
        if name != "text":  # whose encoder takes long to construct
            assert found.kind in encoder(found.default_encoder, found).accepts


@pytest.mark.parametrize(
    ("name", "hint"),
    [("imge", "image"), ("satelite", "Did you mean 'satellite'"), ("", "image, satellite, text")],
)
def test_other_modalities_are_explained(name, hint):
    with pytest.raises(ModalityError, match=hint):
        modality(name)


@pytest.mark.parametrize(
    ("spec", "kind", "hint"),
    [
        ("patch", "image", "Did you mean 'patches'"),
        ("patches:6", "image", "no argument"),
        ("patches", "text", "raster"),
        ("sentence-transformers:all-MiniLM-L6-v2", "image", "text samples"),
        ("open_clip:ViT-B-32", "image", "ARCH/PRETRAINED"),
    ],
)
def test_other_encoders_are_explained(spec, kind, hint):
    with pytest.raises(ModalityError, match=hint):
        encoder(spec, modality(kind))


def test_bad_settings_are_explained():
    for options, hint in [({"batch_size": 0}, "batch_size"), ({"dtype": "int8"}, "dtype")]:
        with pytest.raises(ModalityError, match=hint):
            encoder("patches", modality("image"), **options)


def test_a_source_by_name(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    assert len(source("auto", str(tmp_path), modality=modality("text")).parts()) == 1


def test_a_plugin_brings_a_modality_and_an_encoder(tmp_path):
    (tmp_path / "plugin.py").write_text(
        "from modalities.text import Text\n"
        "from modalities.encoders.patches import Patches\n"
        "class Poem(Text):\n    name = 'poem'\n"
        "class Count(Patches):\n    accepts = ('text',)\n"
    )
    info = tmp_path / "plugin-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[evenset.modalities]\npoem = plugin:Poem\n[evenset.encoders]\ncount = plugin:Count\n"
    )
    code = (
        "import modalities as m; p = m.modality('poem'); print(p.name, type(m.encoder('count', p)).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={"PYTHONPATH": f"{tmp_path}:."})  # fmt: skip
    assert done.stdout.split() == ["poem", "Count"]


def test_naming_things_imports_no_torch():
    code = (
        "import sys, modalities as m; m.encoder('patches', m.modality('image'));"
        "m.encoder('sentence-transformers:all-MiniLM-L6-v2', m.modality('text'));"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def dotted(node):
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def named(text):
    """What may be the name of a module in a module: imported, as an attribute, or in a string."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield dotted(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.replace(":", ".")


def compared(text):
    """The constants with which a module compares something."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Compare | ast.MatchValue):
            yield from (one.value for one in ast.walk(node) if isinstance(one, ast.Constant))


def particular(text):
    """What of a module knows one modality from another."""
    modules = {name for name in named(text) for one in OF_ONE if f"{name}.".startswith(f"{one}.")}
    return modules | {value for value in compared(text) if value in MODALITIES}


@pytest.mark.parametrize("package", ["pipelines", "curation"])
def test_the_pipeline_knows_modalities_by_the_registry_alone(package):
    """The built-in ones too: what it has to know of one is declared there, as a plugin does."""
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 10
    found = {file.name: particular(file.read_text(encoding="utf-8")) for file in files}
    assert {name: known for name, known in found.items() if known} == {}


@pytest.mark.parametrize(
    "text",
    [
        "from modalities.image import Image",
        "from modalities import satellite",
        "import modalities.text",
        "import modalities\nmodalities.image.Image()",
        "def f():\n    from modalities.sources.geotiff import GeoTiffSource",
        "modality('modalities.satellite:Satellite')",
        "if config.modality == 'satellite': pass",
        "if modality.name in ('image', 'text'): pass",
        "match name:\n    case 'text': pass",
    ],
)
def test_that_walk_finds_what_it_looks_for(text):
    assert particular(text)


def test_modules_of_one_modality_are_there():
    assert all((ROOT / f"{one.replace('.', '/')}.py").is_file() for one in OF_ONE)
