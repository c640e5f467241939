"""Benchmarks of the method and of the encoders; run one as ``python -m benchmarks.NAME``."""
