"""Numbers with units, for people.

>>> si(1234567), size(2_500_000), duration(75), duration(0.25)
('1.23 M', '2.50 MB', '1 min 15 s', '0.25 s')
>>> price(1234.5), price(0.0259), price(1e-5), hours(0.0617), hours(8.9e-5), rate(35.912), rate(0.5)
('1,234.50', '0.03', '< 0.01', '0.0617', '< 0.001', '35.9/s', '30.0/min')
"""

import time

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def si(value: float) -> str:
    """A number with three digits and a decimal prefix."""
    for factor, prefix in _PREFIXES:
        if abs(value) >= factor:
            return f"{_three(value / factor)} {prefix}"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def size(num_bytes: float) -> str:
    """Bytes with a decimal prefix."""
    text = si(round(num_bytes))
    return f"{text}B" if text[-1].isalpha() else f"{text} B"


def duration(seconds: float) -> str:
    """A time span in the two units that matter."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def price(value: float) -> str:
    """Money, with two digits after the point."""
    return "< 0.01" if 0 < value < 0.01 else f"{value:,.2f}"


def hours(value: float) -> str:
    """Core-hours or GPU-hours, with three digits."""
    if 0 < value < 0.001:
        return "< 0.001"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def rate(per_second: float) -> str:
    """How often something happens, with three digits."""
    if per_second >= 1000:
        return f"{si(per_second)}/s"
    return f"{_three(per_second)}/s" if per_second >= 1 else f"{_three(60 * per_second)}/min"


def moment(seconds: float) -> str:
    """A point in time, in UTC, from seconds since 1970; empty for none."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds)) if seconds else ""


def _three(value: float) -> str:
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"
