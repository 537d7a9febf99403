"""Names of extended resources, as the kubelet and the API server accept them."""

from __future__ import annotations

import re

_LABEL = "[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_PREFIX = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")


def name_problem(resource: str) -> str:
    """Return why a name is no valid extended resource name, "prefix/name"; "" if it is one.

    Source: the API's rules for qualified names and extended resources, which the kubelet applies to device plugins.
    """
    prefix, slash, name = resource.partition("/")
    if not slash:
        return "expected prefix/name"
    # In a quota it is "requests.<prefix>/<name>", which must be a qualified name too.
    if len(f"requests.{prefix}") > 253 or not _PREFIX.fullmatch(prefix):
        return f"prefix {prefix!r}: expected a lower-case DNS name of at most 244 characters"
    if prefix.endswith("kubernetes.io"):
        return f"prefix {prefix!r}: kubernetes.io is the cluster's own"
    if prefix.startswith("requests."):
        return f"prefix {prefix!r}: requests. is for quotas"
    if len(name) > 63 or not _NAME.fullmatch(name):
        return (
            f"name {name!r}: expected at most 63 letters, digits, - _ and ., the first and last a letter or digit"
        )
    return ""
