"""The config: what is right is read exactly, and what is wrong is named with its place and a way out."""

from pathlib import Path

import pytest

from pipelines.config import Config, described, entries
from pipelines.configfile import load_config
from pipelines.errors import RequestError


@pytest.fixture
def load(tmp_path):
    def read(text, *overrides):
        file = tmp_path / "images.yaml"
        file.write_text(text)
        return load_config(str(file), list(overrides))

    return read


POOL = "source:\n  path: pool\n"
SCENES = "modality: satellite\n"


def test_every_key_has_a_default_and_a_meaning(load):
    assert all(meaning for _, _, meaning in entries(Config()))
    config = load(POOL)
    assert config.output == "runs/images"
    assert config.source == Config().source.model_copy(update={"path": "pool"})
    assert config.model_copy(update={"source": Config().source, "output": None}) == Config()
    for key, _, meaning in entries(Config()):
        assert any(line.startswith(f"{key} ") and meaning in line for line in described().splitlines())


@pytest.mark.parametrize(
    ("text", "count"),
    [("1_000_000", 1_000_000), ("1e6", 1_000_000), ("12", 12), ("1", 1), ("2.5e+3", 2500), ("1E2", 100)],
)
def test_counts_may_be_written_in_several_ways(load, text, count):
    for config in (load(f"{POOL}sample:\n  size: {text}\n"), load(POOL, f"sample.size={text}")):
        assert config.sample.size == count
        assert isinstance(config.sample.size, int)
    assert load(POOL, f"cluster.n_clusters=[{text}]").cluster.n_clusters == [count]


@pytest.mark.parametrize(
    ("text", "drawn"), [("0.1", 100), ("10%", 100), ("10 %", 100), (".29", 290), ("1e-1", 100)]
)
def test_a_share_is_of_the_pool(load, text, drawn):
    assert load(POOL, f"sample.size={text}").sample.count(1000) == drawn


def test_a_share_draws_at_least_one(load):
    assert load(POOL, "sample.size=0.1%").sample.count(10) == 1


def test_overrides_win_and_reach_into_sections(load):
    config = load(
        POOL + "cluster:\n  max_iter: 5\n", "cluster.max_iter=7", "cluster.resample.steps=0", "seed=3"
    )
    assert (config.cluster.max_iter, config.cluster.resample.steps, config.seed) == (7, 0, 3)


def test_an_empty_section_is_all_defaults(load):
    assert load(POOL + "encoder:\n  # model: patches\n").encoder == Config().encoder


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        ("sample:\n  sise: 10\n", [], ["line 4", "sample.sise", "10", "Did you mean sample.size?"]),
        ("n_cluster: [5]\n", [], ["line 3", "n_cluster", "Did you mean cluster.n_clusters?"]),
        ("sampel:\n  size: 1\n", [], ["line 3", "sampel", "Did you mean sample?"]),
        ("qqqq: 1\n", [], ["line 3", "evenset config"]),
        ("", ["sample.sizes=1"], ["override sample.sizes=1", "Did you mean sample.size?"]),
        ("cluster: [\n", [], ["line 4", "not YAML"]),
        ("cluster:\n  max_iter: 'a\n", [], ["line", "not YAML"]),
        ("cluster:\n  max_iter: many\n", [], ["line 4", "cluster.max_iter", "'many'", "integer"]),
        ("cluster:\n  n_clusters: [10, 20]\n", [], ["line 4", "[10, 20] does not decrease"]),
        ("cluster:\n  n_clusters: [10, 10]\n", [], ["does not decrease"]),
        ("cluster:\n  n_clusters: []\n", [], ["list is empty"]),
        ("cluster:\n  n_clusters: [20, x]\n", [], ["line 4", "'x'", "integer"]),
        ("cluster:\n  n_clusters: [20, 5]\n  resample:\n    points: [1]\n", [], ["1 entries", "2 levels"]),
        ("cluster:\n  resample:\n    points: [1]\n", [], ["n_clusters is auto"]),
        ("cluster:\n  n_clusters: [20, 5]\n  split: [3, 1]\n", [], ["20 clusters", "coarse clusters of 3"]),
        ("cluster:\n  n_clusters: [20, 5]\n  split: [2]\n", [], ["cluster.split", "1 entries", "2 levels"]),
        ("", ["cluster={n_clusters: [9], split: [3], resample: {points: [4]}}"], ["split and resampled"]),
        ("cluster:\n  split: [2]\n", [], ["cluster.split", "n_clusters is auto"]),
        ("satellite:\n  chip: 64\n", [], ["line 3", "satellite is not a key"]),
        ("modality: satellite\nsatellite:\n  chop: 6\n", [], ["line 5", "Did you mean satellite.chip?"]),
        ("modality: satellite\nsatellite:\n  chip: 6 feet\n", [], ["line 5", "'6 feet' is no length"]),
        ("modality: satellite\n", ["satellite.scale=[9, 0]"], ["satellite.scale", "[9, 0] is no range"]),
        ("modality: satellite\n", ["satellite.date=\\d+"], ["satellite.date", "needs the group year"]),
        (SCENES, ["satellite.chip=1_.5m"], ["satellite.chip", "'1_.5m' is no length"]),
        (SCENES, ["satellite.chip=" + "9" * 400 + "km"], ["satellite.chip", "is no length"]),
        (SCENES, ["satellite.bands=[0]"], ["satellite.bands: 0 is no band", "from 1"]),
        (SCENES, ["satellite.bands=[]"], ["satellite.bands", "at least 1"]),
        (SCENES, ["satellite.cloud.band=0"], ["cloud.band: 0 is no band", "from 1"]),
        (SCENES, ["satellite.max_cloud=0.2"], ["max_cloud 0.2 needs satellite.cloud.band", "leave"]),
        (SCENES, ["satellite.thin.distance_m=-5"], ["thin.distance_m", "-5", "greater than 0"]),
        (SCENES, ["satellite.thin.distance_m=3e7"], ["thin.distance_m", "10000000"]),
        (SCENES, ["satellite.thin={distance: 5}"], ["Did you mean satellite.thin.distance_m?"]),
        (SCENES + "satellite:\n  thin: 500\n", [], ["line 5", "satellite.thin", "it is a section"]),
        (SCENES, ["satellite.thin.dates=week"], ["thin.dates", "'week'", "month"]),
        (SCENES, ["satellite.thin.dates=year"], ["dates year needs satellite.thin.distance_m"]),
        (SCENES, ["satellite.cap.cell_m=9000"], ["cell_m 9000 needs satellite.cap.per_cell"]),
        (SCENES, ["satellite.cap.per_cell=9"], ["per_cell 9 needs satellite.cap.cell_m"]),
        (SCENES, ["satellite.cap.per_date=0"], ["cap.per_date", "greater than 0"]),
        (SCENES, ["satellite.cap.dates=7"], ["cap.dates 7 needs satellite.cap.per_date"]),
        ("", ["export.formats=[webdataset]"], ["export.formats", "webdataset is not built yet"]),
        ("", ["export.formats=[tar]"], ["'tar'", "parquet"]),
        ("", ["source.format=embeddings", "export.formats=files"], ["no files to write"]),
        ("", ["sample.size=0"], ["sample.size", "no size"]),
        ("", ["sample.size=1.5"], ["1.5 is no whole number"]),
        ("", ["sample.size=100%"], ["below 100 %"]),
        ("", ["sample.size=lots"], ["'lots'", "count"]),
        ("", ["encoder.actors=[3, 1]"], ["[3, 1] is no range"]),
        ("", ["seed=-1"], ["seed", "-1"]),
        ("", ["sample=3"], ["it is a section"]),
        ("", ["sample.size"], ["write key=value"]),
        ("", ["sample.size=[1"], ["override sample.size=[1", "not YAML"]),
        ("source:\n  path: other\n", [], ["line 3", "line 1", "keep one"]),
        ("", ["source.path=null"], ["source.path is missing"]),
        ("", ["sample.size=.inf"], ["sample.size", "inf is no size"]),
        ("", ["sample.size=.nan"], ["sample.size", "nan is no size"]),
        ("", ["sample.max_repeats=2147483648"], ["sample.max_repeats", "less than 2147483648"]),
        ("encoder: &a\n  model: *a\n", [], ["line 4", "encoder.model is an alias"]),
        ("encoder:\n  actors: &a [*a, 2]\n", [], ["line 4", "encoder.actors"]),
        ("null: 3\n", [], ["line 3", "'null' is not a key"]),
        ("sample:\n  1: 3\n", [], ["line 4", "'1' is not a key"]),
        ("? [a, b]\n: 3\n", [], ["line 3", "is not a key"]),
        ("", ["sample={1: 2}"], ["override sample={1: 2}", "1 is not a key"]),
        ("", ["a.b.c=3"], ["override a.b.c=3: a is not a key"]),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_a_way_out(load, text, overrides, said):
    with pytest.raises(RequestError) as refusal:
        load(POOL + text, *overrides)
    for words in said:
        assert words in str(refusal.value)


def test_the_page_on_configuration_is_what_the_command_lists():
    page = (Path(__file__).parents[2] / "docs/configuration.md").read_text()
    rows = [line.strip("| ").split(" | ", 2) for line in page.splitlines() if line.startswith("| `")]
    listed = [line.split(maxsplit=1)[0] for line in described().splitlines()]
    assert [key.strip("`") for key, _, _ in rows] == listed
    for (key, default, meaning), line in zip(rows, described().splitlines(), strict=True):
        assert line.split() == [*key.strip("`").split(), *default.strip("`").split(), *meaning.split()]


def test_every_mistake_is_named_at_once(load):
    with pytest.raises(RequestError) as refusal:
        load(POOL + "seed: x\nsample:\n  sise: 3\n")
    assert len(str(refusal.value).splitlines()) == 2


def test_a_config_that_is_not_there(tmp_path):
    with pytest.raises(RequestError, match="cannot read the config"):
        load_config(str(tmp_path / "none.yaml"))


def test_a_config_that_is_no_mapping(load):
    with pytest.raises(RequestError, match="line 1"):
        load("- a\n- b\n")
