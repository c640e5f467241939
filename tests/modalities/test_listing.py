"""What ``evenset encoders`` says."""

import pytest

from modalities import encoder, listing, modality


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


def test_the_command_prints_them(capfd):
    from pipelines.cli import main

    with pytest.raises(SystemExit) as end:
        main(["encoders"])
    assert not end.value.code
    printed = capfd.readouterr().out
    for listed in listing.encoders():
        assert listed.model in printed
