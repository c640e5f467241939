"""docs/cluster.md says what is there."""

import re
from pathlib import Path

import pytest
import yaml

from pipelines import blas
from pipelines.config import Config

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/cluster.md").read_text()


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert len(links) >= 4
    for link in links:
        assert (ROOT / "docs" / link).exists(), link


def test_its_config_is_one():
    (text,) = [block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.S) if "modality" in block]
    config = Config.model_validate(yaml.safe_load(text))
    assert config.output.startswith("s3://")


def test_the_warning_it_quotes_is_the_one_that_is_given():
    (quoted,) = [line for line in PAGE.splitlines() if line.startswith("on the machine ")]
    assert blas.warning(["Haswell"], frozenset({"avx512f"})) in quoted


@pytest.mark.parametrize(
    "file", ["cluster.yaml", "examples/cloud/gcp.yaml", "examples/cloud/kuberay-cluster.yaml"]
)
def test_every_file_says_how_a_run_is_sent(file):
    """And the page names the same command."""
    command = (
        "ray job submit --address http://127.0.0.1:8265 --working-dir . -- python -m pipelines run run.yaml"
    )
    comments = [line.lstrip("# ") for line in (ROOT / file).read_text().splitlines() if line.startswith("#")]
    assert command in comments
    assert command in PAGE
