"""In which arithmetic a model runs where the config leaves that open."""

import pytest
import torch

from modalities.encoders import device


@pytest.mark.parametrize(
    ("able", "gain", "dtype"),
    [
        ({"avx512_bf16": True}, 3.0, torch.bfloat16),
        ({"avx512_bf16": True}, 1.1, torch.float32),
        ({"amx_bf16": True}, 2.0, torch.bfloat16),
        ({}, 3.0, torch.float32),
    ],
)
def test_a_cpu_takes_bfloat16_where_that_pays(monkeypatch, able, gain, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    monkeypatch.setattr(device, "_bfloat16_gain", lambda: gain)
    assert device.place("cpu", None) == (torch.device("cpu"), dtype)


def test_what_is_asked_for_is_not_tried():
    assert device.place("cpu", "bfloat16")[1] == torch.bfloat16


def test_the_gain_is_measured_once():
    assert device._bfloat16_gain() > 0
    assert device._bfloat16_gain() == device._bfloat16_gain()
