"""Reading the configurations of the reference plugins: keys in any case, unknown ones ignored, as Go reads them."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from wirespeed import structs
from wirespeed.cni import result as results
from wirespeed.cni.address import read_mac
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind, under
from wirespeed.keys import normalize_case
from wirespeed.structs import Words

T = TypeVar("T", bound=msgspec.Struct)

Mtu = Annotated[int, Meta(ge=0, le=2**31 - 1), Words("an integer from 0 to 2147483647", "bytes")]
VlanId = Annotated[int, Meta(ge=1, le=4094), Words("an integer from 1 to 4094", "1 to 4094")]
Table = Annotated[int, Meta(ge=0, le=2**32 - 1), Words("an integer from 0 to 4294967295", "the number of a table")]
Vlan = Annotated[int, Meta(ge=0, le=4094), Words("an integer from 0 to 4094", "0 to 4094")]


def read(request: Request, kind: type[T]) -> T:
    """Read the keys of `kind` from the request's configuration; null is no key. Raises Error(INVALID_CONFIG)."""
    known = structs.keys_of(kind)
    found = normalize_case(request.config, known)
    return structs.read({key: found[key] for key in known if found.get(key) is not None}, kind)


def requested_mac(request: Request, own: str = "", *, in_args: bool = True) -> str:
    """Return the MAC for the interface: runtimeConfig.mac, args.cni.mac, CNI_ARGS MAC, or `own`, in this order.

    Not all plugins look into args.cni: only with `in_args`. Raises Error(INVALID_CONFIG, INVALID_REQUEST).
    """
    runtime = structs.object_in(request.config, "runtimeConfig")
    if given := runtime.get("mac"):
        with under("runtimeConfig"):
            return read_mac(given)
    cni = structs.object_in(structs.object_in(request.config, "args"), "cni", "args.") if in_args else {}
    if given := cni.get("mac"):
        with under("args", "cni"):
            return read_mac(given)
    if given := request.args.get("MAC"):
        try:
            return read_mac(given)
        except Error as error:
            raise error.of_kind(Kind.INVALID_REQUEST).at(where=("CNI_ARGS MAC",), key=()) from error
    return read_mac(own)


def previous(request: Request) -> Result:
    """Return the result of the earlier plugins of the chain. Raises Error(INVALID_CONFIG, INVALID_DATA)."""
    given = request.config.get("prevResult")
    if given is None:
        expected = "the result of an earlier plugin of the chain"
        raise Error(Kind.INVALID_CONFIG, key="prevResult", missing=True, expected=expected)
    with under("prevResult"):
        return results.read(given, request.version)


def dns(request: Request) -> dict[str, Any]:
    """Return the DNS of the configuration, {} if it sets none. Raises Error(INVALID_DATA)."""
    return results.read_dns(request.config.get("dns"))
