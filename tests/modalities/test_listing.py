"""What ``evenset encoders`` says."""

import pytest

from modalities import ModalityError, encoder, listing, modality

from .distributions import encoder as point
from .distributions import install


def test_dimensions_are_those_of_the_models():
    for listed in listing.WELL_KNOWN:
        if listed.model.startswith(("patches", "open_clip", "timm")) or listed.here:
            kind = "image" if "images" in listed.encodes else "text"
            assert encoder(listed.model, modality(kind)).dim == listed.dimensions, listed.model


def test_what_needs_no_download_is_here():
    here = {listed.model: listed.here for listed in listing.encoders()}
    assert here["patches"] is True
    assert here["sentence-transformers:all-MiniLM-L6-v2"] is True
    assert here["timm:ARCH.TAG"] is None


def test_a_model_is_here_when_its_weights_are_in_the_cache(monkeypatch, tmp_path):
    name = "timm:resnet50.a1_in1k"
    (listed,) = [one for one in listing.encoders() if one.model == name]
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert listed.here is False
    snapshot = tmp_path / "models--timm--resnet50.a1_in1k" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    refs = tmp_path / "models--timm--resnet50.a1_in1k" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    assert listed.here is True


def printed(capfd):
    from pipelines.cli import main

    with pytest.raises(SystemExit) as end:
        main(["encoders"])
    assert not end.value.code
    return capfd.readouterr().out.splitlines()


def test_the_command_prints_them(capfd):
    lines = printed(capfd)
    for listed in listing.encoders():
        (line,) = [line for line in lines if line.startswith(f"{listed.model} ")]
        for told in listing.rows([listed])[0]:
            assert told in line
    columns = {line.split()[0]: line.split()[1:] for line in lines}
    assert columns["encoder.model"] == ["encodes", "dimensions", "licence", "here"]
    assert columns["patches"] == ["images", "128", "Apache-2.0", "yes"]
    assert columns["sentence-transformers:all-MiniLM-L6-v2"] == ["texts", "384", "Apache-2.0", "yes"]
    assert columns["timm:ARCH.TAG"] == ["images"]


HALVES = "from modalities import Encoder\nclass Halves(Encoder):\n    prepare = load = encode = None\n"


def named(name):
    (row,) = [row for row in listing.encoders() if row.model == name]
    return row


def test_an_encoder_of_a_plugin_is_listed(site):
    install(site, "evenset-halves", point("halves", "halves_plugin:Halves"), "1.2", halves_plugin=HALVES)
    row = named("halves")
    assert (row.encodes, row.problem) == ("plugin of evenset-halves 1.2", None)


def test_two_plugins_of_one_name_are_one_line_that_names_both(site, capfd):
    install(site, "one-half", point("halves", "halves_plugin:Halves"), halves_plugin=HALVES)
    install(site, "two-halves", point("halves", "others:Halves"), "3.1")
    row = named("halves")
    assert row.encodes == "plugin of one-half 1.0 and two-halves 3.1"
    assert "uninstall one" in row.problem
    lines = printed(capfd)
    assert len([line for line in lines if line.startswith("halves ")]) == 1
    assert row.problem in lines


def test_a_plugin_that_takes_the_name_of_a_built_in_is_told(site):
    install(site, "taker", point("patches", "halves_plugin:Halves"), halves_plugin=HALVES)
    row = named("patches")
    assert "'patches' is brought by evenset" in row.problem
    assert "taker 1.0" in row.problem
    assert named("timm:ARCH.TAG").problem is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 / 0\n", "ZeroDivisionError"),
        ("x = 1\n", "AttributeError"),
        ("class Halves:\n    pass\n", r"no modalities\.Encoder"),
        ("Halves = 3\n", r"no modalities\.Encoder"),
        ("from modalities import Encoder\nclass Halves(Encoder):\n    pass\n", "lacks encode, load, prepare"),
    ],
)
def test_a_broken_plugin_has_its_error_below_the_list(site, capfd, text, said):
    install(site, "broken", point("halves", "broken_halves:Halves"), broken_halves=text)
    problem = named("halves").problem
    assert "'halves' (of broken 1.0) is broken" in problem
    assert problem in printed(capfd)
    with pytest.raises(ModalityError, match=said):
        encoder("halves", modality("image"))
