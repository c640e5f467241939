import subprocess
import sys

import pytest

from modalities import ModalityError, encoder, modality, source


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
