"""The old address of `mechdiff.study.stored_sweep`, which exported notebooks name."""

from mechdiff.study.stored_sweep import parse

__all__ = ["parse"]
