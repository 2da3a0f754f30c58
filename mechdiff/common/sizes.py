"""Sizes in bytes, for people."""


def in_bytes(size: float) -> str:
    """A size with its unit, as `16.1 GB`. size: bytes."""
    return next(
        (f"{size / unit:.1f} {name}" for unit, name in ((1e9, "GB"), (1e6, "MB")) if size >= unit), f"{size / 1e3:.1f} kB"
    )
