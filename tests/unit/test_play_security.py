"""A container's privileges, from its securityContext; tests/node/test_play_rights.py compares with containerd."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirespeed.errors import Error
from wirespeed.play import security
from wirespeed.play.objects import PodSecurityContext, SecurityContext
from wirespeed.play.security import CAPABILITIES, DEFAULT

EVERY = frozenset(CAPABILITIES)


def context(**keys: Any) -> SecurityContext:
    return msgspec.convert(keys, SecurityContext)


def pod_context(**keys: Any) -> PodSecurityContext:
    return msgspec.convert(keys, PodSecurityContext)


def capabilities(**asked: list[str]) -> frozenset[str]:
    return security.capabilities(context(capabilities=asked), EVERY)


def test_capabilities_have_the_kernels_numbers() -> None:
    numbers = {name: CAPABILITIES.index(name) for name in ("CHOWN", "NET_ADMIN", "IPC_LOCK", "SYS_RESOURCE", "BPF")}
    assert numbers == {"CHOWN": 0, "NET_ADMIN": 12, "IPC_LOCK": 14, "SYS_RESOURCE": 24, "BPF": 39}
    assert sum(1 << CAPABILITIES.index(name) for name in DEFAULT) == 0xA80425FB


def test_a_container_has_the_default_ones_and_what_it_adds() -> None:
    assert security.capabilities(context(), EVERY) == DEFAULT
    assert capabilities(add=["IPC_LOCK"], drop=["NET_RAW"]) == DEFAULT - {"NET_RAW"} | {"IPC_LOCK"}


def test_all_counts_before_single_ones() -> None:
    assert capabilities(add=["ALL"]) == EVERY
    assert capabilities(add=["all"], drop=["CHOWN"]) == EVERY - {"CHOWN"}
    assert capabilities(add=["NET_RAW"], drop=["ALL"]) == {"NET_RAW"}
    assert capabilities(add=["ALL"], drop=["ALL"]) == set()


def test_all_are_those_that_the_runtime_has() -> None:
    assert security.capabilities(context(privileged=True), frozenset({"CHOWN"})) == {"CHOWN"}
    assert security.capabilities(context(capabilities={"add": ["ALL"]}), frozenset({"CHOWN"})) == {"CHOWN"}


def test_a_name_with_cap_is_none_and_is_told_of() -> None:
    asked = context(capabilities={"add": ["CAP_IPC_LOCK", "ipc_lock", "NET_ADMINS"], "drop": ["ALL"]})
    assert security.capabilities(asked, EVERY) == {"IPC_LOCK"}
    assert [*security.unknown_capabilities(asked)] == [
        'capability CAP_IPC_LOCK is not known and has no effect; did you mean "IPC_LOCK"?',
        'capability NET_ADMINS is not known and has no effect; did you mean "NET_ADMIN"?',
    ]


@given(st.lists(st.sampled_from([*CAPABILITIES, "ALL"])), st.lists(st.sampled_from([*CAPABILITIES, "ALL"])))
def test_what_is_dropped_is_not_there_and_what_is_added_is(add: list[str], drop: list[str]) -> None:
    found = capabilities(add=add, drop=drop)
    assert found.isdisjoint(drop)
    assert {*add} - {*drop, "ALL"} <= found


def test_the_containers_user_counts_before_the_pods() -> None:
    pod = pod_context(runAsUser=12345, runAsGroup=5, supplementalGroups=[7], fsGroup=8)
    assert security.rights(pod, None).user == 12345
    found = security.rights(pod, context(runAsUser=0))
    assert (found.user, found.group, found.groups[0]) == (0, 5, 5)
    assert {7, 8} <= {*found.groups}


def test_a_user_that_this_machine_does_not_know_is_in_roots_group() -> None:
    found = security.rights(None, context(runAsUser=123456))
    assert (found.user, found.group, found.groups, found.home) == (123456, 0, (0,), "/")


def test_new_privileges_are_kept_from_a_container_only_if_it_says_so() -> None:
    assert security.rights(None, context(allowPrivilegeEscalation=False)).no_new_privileges
    assert not security.rights(None, context(allowPrivilegeEscalation=True)).no_new_privileges
    assert not security.rights(None, None).no_new_privileges


@pytest.mark.parametrize(
    ("pod", "container", "told"),
    [
        ({"runAsNonRoot": True}, {"runAsUser": 0}, 'key "runAsNonRoot": expected a runAsUser other than 0'),
        ({}, {"runAsUser": -1}, 'key "runAsUser": expected 0 to 2147483647, got -1'),
        ({"supplementalGroups": [1 << 31]}, {}, 'key "supplementalGroups": expected 0 to'),
        (
            {},
            {"privileged": True, "allowPrivilegeEscalation": False},
            'key "allowPrivilegeEscalation": expected true',
        ),
        (
            {},
            {"allowPrivilegeEscalation": False, "capabilities": {"add": ["CAP_SYS_ADMIN"]}},
            'key "allowPrivilegeEscalation": expected true or nothing beside the capability CAP_SYS_ADMIN',
        ),
    ],
)
def test_what_kubernetes_does_not_run_is_refused(pod: Any, container: Any, told: str) -> None:
    with pytest.raises(Error, match=told):
        security.check(pod_context(**pod), context(**container))


def test_what_kubernetes_runs_is_taken() -> None:
    security.check(None, None)
    security.check(pod_context(runAsNonRoot=True, runAsUser=1), context(allowPrivilegeEscalation=False))
    security.check(pod_context(runAsNonRoot=True), context(runAsNonRoot=False))


def test_what_has_no_effect_is_told_by_its_key() -> None:
    asked = context(seccompProfile={"type": "RuntimeDefault"}, procMount="Default", seLinuxOptions={"level": "s0"})
    assert [*security.unenforced(asked)] == ["seLinuxOptions", "seccompProfile"]
    assert [*security.unenforced(pod_context(seccompProfile={"type": "Unconfined"}, sysctls=[{}]))] == ["sysctls"]


@pytest.mark.parametrize(
    ("pod", "container", "told"),
    [
        ({}, {"runAsNonRoot": True}, 'key "runAsNonRoot": expected a runAsUser beside it'),
        ({"runAsNonRoot": True}, {}, 'key "runAsNonRoot": expected a runAsUser beside it'),
        ({"runAsNonRoot": True, "runAsUser": 7}, {}, ""),
        ({"runAsNonRoot": True}, {"runAsNonRoot": False}, ""),
        ({}, {}, ""),
    ],
)
def test_the_images_user_is_not_known_here(pod: dict[str, Any], container: dict[str, Any], told: str) -> None:
    with pytest.raises(Error, match=told) if told else nullcontext():
        security.check_without_image(pod_context(**pod), context(**container))
    security.check(pod_context(**pod), context(**container))
