"""The C library's setns(2), for Python before 3.12.

This is what cffi writes for the declaration DECLARED (its API in "out-of-line ABI" mode), so that no process has to
load cffi's parser of C (about 0.1 s). A test compares the two.
"""

import _cffi_backend

DECLARED = "int setns(int fd, int nstype);"
NAME = "wirespeed.kernel.libc"

ffi = _cffi_backend.FFI(
    NAME,
    _version=0x2601,
    _types=b"\x00\x00\x01\x0d\x00\x00\x07\x01\x00\x00\x07\x01\x00\x00\x00\x0f",
    _globals=(b"\x00\x00\x00\x23setns", 0),
)
