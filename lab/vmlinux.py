"""Unpacks the ELF kernel out of a bzImage: unpacking it inside the guest costs seconds under TCG.

QEMU starts an ELF kernel by its PVH entry point (CONFIG_PVH, which Debian sets).
"""

import struct
import subprocess
import sys
from pathlib import Path

UNPACKERS = {b"\xfd7zXZ\0": ["xz", "-dc"], b"\x28\xb5\x2f\xfd": ["zstd", "-dc"]}


def payload(image: bytes) -> bytes:
    """The packed kernel inside `image`, a bzImage of boot protocol 2.08 or later; ValueError if it is none.

    The header (Documentation/arch/x86/boot.rst) gives place and length of the payload: setup_sects 0x1f1,
    payload_offset 0x248, payload_length 0x24c. Its last 4 bytes are the unpacked size.
    """
    if image[0x202:0x206] != b"HdrS":
        raise ValueError("not a bzImage")
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    return image[start : start + length - 4]


def unpack(packed: bytes) -> bytes:
    """The ELF kernel; ValueError if it is packed in a way not known here."""
    for magic, command in UNPACKERS.items():
        if packed.startswith(magic):
            kernel = subprocess.run(command, input=packed, stdout=subprocess.PIPE, check=True).stdout
            break
    else:
        raise ValueError(f"the kernel is packed neither with xz nor zstd (it begins with {packed[:6].hex()})")
    if not kernel.startswith(b"\x7fELF"):
        raise ValueError("the unpacked kernel is not ELF")
    return kernel


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(unpack(payload(Path(sys.argv[1]).read_bytes())))
