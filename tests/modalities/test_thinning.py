"""Which chips are of one date, and what must hold of them."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from modalities import modality
from modalities.rules import Apart, AtMost
from modalities.satellite_settings import SatelliteSettings
from modalities.thinning import COLUMNS, date_cells


def moments(*texts):
    times = [text and datetime.fromisoformat(text).replace(tzinfo=UTC) for text in texts]
    return pa.chunked_array([pa.array(times, pa.timestamp("us", "UTC"))])


DAYS = moments(
    "2020-01-31T23:59:59", "2020-01-31T00:00:00", "2020-02-01T00:00:00", "2020-12-31T12:00:00",
    "1969-12-31T23:00:00", "1970-01-01T01:00:00", None, None,
)  # fmt: skip


@pytest.mark.parametrize(
    ("dates", "groups"),
    [
        ("day", [0, 0, 1, 2, 3, 4, 5, 5]),
        ("month", [0, 0, 1, 2, 3, 4, 5, 5]),
        ("year", [0, 0, 0, 0, 3, 4, 5, 5]),
        ("any", [0, 0, 0, 0, 0, 0, 0, 0]),
        (1, [0, 0, 1, 2, 3, 4, 5, 5]),
        (366, [0, 0, 0, 2, 3, 4, 5, 5]),
        (1_000_000, [0, 0, 0, 0, 3, 0, 5, 5]),
    ],
)
def test_chips_of_one_date(dates, groups):
    found = date_cells(DAYS, dates)
    same = np.equal.outer(found, found)
    assert np.array_equal(same, np.equal.outer(groups, groups)), found


def rules(columns=None, **options):
    made = modality("satellite", SatelliteSettings(**options))
    table = columns or pa.table(
        {"lon": pa.array([15.0, 15.0, None]), "lat": pa.array([50.0, 50.001, None]), "datetime": DAYS[:3]}
    )
    return made.thinned_by, list(made.rules(table))


def test_nothing_is_asked_for_by_default():
    assert rules() == ((), [])


def test_rules_are_those_that_are_asked_for_in_their_order():
    looks_at, (far, of_cell, of_date) = rules(
        thin={"distance_m": 500, "dates": "year"}, cap={"cell_m": 10_000, "per_cell": 50, "per_date": 1000}
    )
    assert looks_at == COLUMNS
    assert isinstance(far, Apart)
    assert isinstance(of_cell, AtMost)
    assert isinstance(of_date, AtMost)
    assert far.distance == pytest.approx(500)
    assert np.linalg.norm(far.points[0] - far.points[1]) == pytest.approx(111.2, rel=1e-3)
    assert np.isnan(far.points[2]).all()
    assert (
        far.reason == "Nearer than 500 m to a chip of the same year that stays (satellite.thin.distance_m)."
    )
    assert (of_cell.count, pa.array(of_cell.of).null_count) == (50, 1)
    assert (of_date.count, len(set(of_date.of.tolist()))) == (1000, 2)
    assert rules(thin={"distance_m": 500})[1][0].reason == (
        "Nearer than 500 m to a chip of the same day that stays (satellite.thin.distance_m)."
    )
