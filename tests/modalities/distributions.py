"""Distributions of plugins, as pip leaves them in a folder of the import path."""


def install(folder, name, entry_points, version="1.0", **modules):
    """Write a distribution with these entry points (the text of their file) and modules (their texts)."""
    folder.mkdir(exist_ok=True)
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(entry_points)
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)
    return folder


def modality(name, target):
    """An entry point of a modality."""
    return f"[evenset.modalities]\n{name} = {target}\n"


def encoder(name, target):
    """An entry point of an encoder."""
    return f"[evenset.encoders]\n{name} = {target}\n"
