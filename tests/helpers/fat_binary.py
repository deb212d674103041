"""What a fat binary of NVIDIA's holds."""

from __future__ import annotations

__all__ = ["fat_binary_images"]


def fat_binary_images(data: bytes) -> set[tuple[str, int]]:
    """(kind, architecture) of the images of a fat binary.

    The layout is not documented by NVIDIA; as read by https://github.com/VivekPanyam/cudaparsers: a header of
    16 bytes (magic 0xBA55ED50), then images with a header each: kind (1 PTX, 2 ELF), its own size at byte 4,
    the image's at byte 8, the architecture at byte 28.
    """
    assert data[:4] == bytes.fromhex("50ed55ba")
    found, at = set(), 16
    while at < len(data):
        kind = int.from_bytes(data[at : at + 2], "little")
        header, size = int.from_bytes(data[at + 4 : at + 8], "little"), data[at + 8 : at + 16]
        found.add(({1: "ptx", 2: "elf"}[kind], int.from_bytes(data[at + 28 : at + 32], "little")))
        at += header + int.from_bytes(size, "little")
    return found
