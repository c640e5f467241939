"""Quantities as a person says them."""

from __future__ import annotations


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: 3.2 s, 4 min 10 s, 2 h 5 min."""
    if seconds is None:
        return "?"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def scaled(value: float, unit: str) -> str:
    """A quantity with three digits and the letter of its thousands: 4.21 GB, 310 Mflop, 12 B."""
    letters = "kMGTP"
    power = 0
    while value >= 999.5 and power < len(letters):
        value, power = value / 1000, power + 1
    digits = f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"
    return f"{digits} {letters[power - 1] if power else ''}{unit}"
