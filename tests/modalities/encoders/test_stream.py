"""Batches pass through a device in their order; on a GPU one is begun while the one before is computed."""

import weakref

import numpy as np
import pytest
import torch

from modalities.encoders.device import Stream

CPU = torch.device("cpu")


def doubled(inputs):
    ((rows,),) = inputs
    if (rows < 0).any():
        raise ValueError("negative")
    return rows * 2


def staged(value, wanted=3, log=None):
    """A batch of four rows of one value, of which so many are wanted; None cannot be staged."""

    def stage():
        if log is not None:
            log.append(f"begin {value}")
        if value is None:
            raise OSError("unreadable")
        return [(np.full((4, 2), value, np.float32),)]

    return stage, wanted


def test_results_come_in_the_order_of_their_batches_and_have_the_wanted_rows():
    found = list(Stream(CPU).run((staged(i, 1 + i % 4) for i in range(9)), doubled))
    assert [len(rows) for rows in found] == [1 + i % 4 for i in range(9)]
    assert [set(rows.ravel().tolist()) for rows in found] == [{2.0 * i} for i in range(9)]
    assert list(Stream(CPU).run(iter(()), doubled)) == []


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), (None, OSError)], ids=["model", "staging"])
def test_an_error_stands_in_the_place_of_its_batch_and_costs_no_other(place, value, error):
    values = [value if i == place else i for i in range(4)]
    found = list(Stream(CPU).run(map(staged, values), doubled))
    assert isinstance(found.pop(place), error)
    assert [rows[0, 0] for rows in found] == [2.0 * i for i in range(4) if i != place]


def test_one_batch_is_begun_ahead_of_the_one_that_is_waited_for_and_no_more():
    log = []
    for rows in Stream(CPU).run((staged(i, log=log) for i in range(4)), doubled):
        log.append(f"end {rows[0, 0] / 2:g}")
    assert log == ["begin 0", "begin 1", "end 0", "begin 2", "end 1", "begin 3", "end 2", "end 3"]


def test_what_a_batch_had_computed_is_let_go_when_it_fails():
    held = []

    def forward(inputs):
        activations = inputs[0][0] * 2
        held.append(weakref.ref(activations))
        torch.empty(2**60)

    stream = Stream(CPU)
    for error in stream.run(map(staged, range(3)), forward):
        assert "allocate memory" in str(error)
        assert all(activations() is None for activations in held)
    assert len(held) == 3


class Late:
    """An event of a GPU that tells of an error when it is waited for."""

    def synchronize(self):
        raise RuntimeError("the device failed")


def test_what_a_device_tells_late_stands_in_the_place_of_its_batch_too(monkeypatch):
    fetch, events = Stream._fetch, iter([None, Late(), None])
    monkeypatch.setattr(Stream, "_fetch", lambda self, output: (fetch(self, output)[0], next(events)))
    first, second, third = Stream(CPU).run(map(staged, range(3)), doubled)
    assert isinstance(second, RuntimeError)
    assert (first[0, 0], third[0, 0]) == (0, 4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_the_results_are_those_of_one_batch_after_another():
    gpu, draw = torch.device("cuda"), np.random.default_rng(0)
    weights = torch.from_numpy(draw.normal(size=(512, 512)).astype(np.float32)).to(gpu)
    batches = [draw.normal(size=(256, 512)).astype(np.float32) for _ in range(12)]

    def forward(inputs):
        ((rows,),) = inputs
        for _ in range(20):
            rows = torch.tanh(rows @ weights / 23)
        return rows

    ahead = list(Stream(gpu).run(((lambda rows=rows: [(rows,)], 200) for rows in batches), forward))
    for rows, found in zip(batches, ahead, strict=True):
        with torch.inference_mode():
            alone = forward([(torch.from_numpy(rows).to(gpu),)])[:200].cpu().numpy()
        np.testing.assert_array_equal(found, alone)
