"""Amounts as a plan's tables show them: few digits, in the unit that suits."""

from __future__ import annotations

from lotperm.cluster.estimate import Line


def hours(line: Line) -> str:
    """Format device-hours: a number if they were measured, a range if they are estimated."""
    if line.seconds is None:
        return "not measured"
    low, high = (digits(s / 3600) for s in line.seconds)
    return low if low == high else f"{low}–{high}"


def digits(value: float) -> str:
    """Format a number with two digits, three from 100 on, and no exponent."""
    if value == 0:
        return "0"
    if value < 0.001:
        return "<0.001"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def flop(value: float) -> str:
    """Format FLOPs, which are always many, with an exponent; 0 without."""
    return f"{value:.2e}" if value else "0"


def size(value: float) -> str:
    """Format bytes in decimal units, with three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def count(value: int) -> str:
    """Format a number in thousands, millions or billions, with three digits."""
    if value < 100_000:
        return f"{value:,}"
    short = float(value)
    for unit in ("k", "M", "G"):
        short /= 1000
        if short < 999.5:
            return f"{short:.3g} {unit}"
    return f"{short:,.0f} G"
