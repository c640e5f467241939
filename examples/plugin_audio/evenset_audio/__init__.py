"""Sounds as a modality of evenset."""

from evenset_audio.log_mel import LogMel
from evenset_audio.sound import Sound
from evenset_audio.waveform import Waveform

__all__ = ["LogMel", "Sound", "Waveform"]
