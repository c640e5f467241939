"""What tests of plugins share."""

import sys

import pytest


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of the import path that is this test's own."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path / "site"
