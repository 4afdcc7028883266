"""Fields of protocol buffers: enough to write a small ONNX file, and to add metadata to a large one.

The package onnx is as large as the runtime, and nothing else of it is needed. A message is the concatenation of
its fields, so that fields can be appended to a file.
"""

from __future__ import annotations

from collections.abc import Mapping

METADATA = 14
"""The number of the field of metadata in ONNX's ModelProto."""


def with_metadata(model: bytes, entries: Mapping[str, str]) -> bytes:
    """Return an ONNX file with more entries of metadata."""
    fields = (bytes_field(METADATA, text_field(1, key) + text_field(2, value)) for key, value in entries.items())
    return model + b"".join(fields)


def number_field(field: int, value: int) -> bytes:
    """Encode a field of a number below 128."""
    return bytes([field << 3, value])


def bytes_field(field: int, value: bytes) -> bytes:
    """Encode a field of bytes, or of another message."""
    return bytes([field << 3 | 2]) + _varint(len(value)) + value


def text_field(field: int, value: str) -> bytes:
    """Encode a field of text."""
    return bytes_field(field, value.encode())


def _varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])
