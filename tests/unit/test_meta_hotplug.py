"""Networks of running pods: which networks of an annotation are attached, and what the command sends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirespeed.cli.hotplug import element
from wirespeed.errors import Error
from wirespeed.kernel.netns import Identity
from wirespeed.plugins.meta.delegate import Delegate, planned_rows
from wirespeed.plugins.meta.devices import Devices
from wirespeed.plugins.meta.hotplug import difference
from wirespeed.plugins.meta.selection import Selection, parse
from wirespeed.state.journal import Attachment, AttachmentStep


def rows(*networks: str, selected: bool = True, step: AttachmentStep = AttachmentStep.ADDED) -> list[Attachment]:
    """Attachments in namespace ns, each given as "<name>@<interface>"."""
    delegates = [
        Delegate(
            configuration="c",
            request_ifname="eth0",
            label=f"ns/{name}",
            raw={"type": "x", "name": name},
            version="1.0.0",
            ifname=interface,
            selected=selected,
        )
        for name, _, interface in (network.partition("@") for network in networks)
    ]
    made = planned_rows(delegates, container="c1", netns="/n", identity=Identity(1, 2, 3))
    return [replace(row, step=step) for row in made]


def compared(wanted: str, there: Sequence[Attachment]) -> tuple[list[str], list[str]]:
    missing, surplus = difference(parse(wanted, namespace="ns"), there)
    return [asked.name for asked in missing], [row.ifname for row in surplus]


@pytest.mark.parametrize(
    ("wanted", "there", "missing", "surplus"),
    [
        ("", [], [], []),
        ("a,b", ["a@net1", "b@net2"], [], []),
        ("b,a", ["a@net1", "b@net2"], [], []),  # they keep the order of the ADD
        ("a,b,a", ["a@net1", "b@net2"], ["a"], []),
        ("a", ["a@net1", "a@net3"], [], ["net3"]),
        ("c,a", ["a@net1", "b@net2"], ["c"], ["net2"]),
        ("a@x", ["a@net1"], ["a"], ["net1"]),
        ("a,a@net1", ["a@net1"], ["a"], []),  # the element that names the interface is the attached one
        ("a,a@net1", ["a@net1", "a@net2"], [], []),
        ("other/a", ["a@net1"], ["a"], ["net1"]),
    ],
)
def test_difference(wanted: str, there: list[str], missing: list[str], surplus: list[str]) -> None:
    assert compared(wanted, rows(*there)) == (missing, surplus)


def test_what_the_annotation_did_not_bring_is_not_its_to_take() -> None:
    assert compared("a", rows("a@net1", selected=False)) == (["a"], [])


@pytest.mark.parametrize("step", sorted({*AttachmentStep} - {AttachmentStep.ADDED}))
def test_what_is_half_attached_goes_and_is_attached_anew(step: AttachmentStep) -> None:
    assert compared("a", rows("a@net1", step=step)) == (["a"], ["net1"])


names = st.sampled_from(["a", "b", "c"])
interfaces = st.sampled_from(["", "net1", "net2", "net3"])


@given(st.lists(st.tuples(names, interfaces), max_size=5), st.lists(names, max_size=3))
def test_afterwards_there_is_no_difference(wanted: list[tuple[str, str]], there: list[str]) -> None:
    """After all changes there is no difference left: the missing ones are those requested beyond what stays."""
    attached = rows(*(f"{name}@net{number}" for number, name in enumerate(there, start=1)))
    asked = [Selection(namespace="ns", name=name, interface=interface) for name, interface in wanted]
    missing, surplus = difference(asked, attached)
    kept = [row for row in attached if row not in surplus]
    assert len(missing) + len(kept) == len(asked)
    left = list(asked)
    for each in missing:
        left.remove(each)
    assert difference(left, kept) == ([], [])


def test_device_that_is_attached_already_is_not_given_again() -> None:
    devices = Devices(lambda: {"x/vf": ["1", "2"], "y/all": ["1", "2"]}, "ns/p", taken=[("x/vf", "1")])
    assert devices.take("x/vf") == "2"
    with pytest.raises(Error, match="all 2 are attached already"):
        devices.take("x/vf")
    with pytest.raises(Error, match="is requested twice"):
        devices.take_id("1")


@pytest.mark.parametrize(
    ("network", "interface", "expected"),
    [
        ("ns/a", "", "ns/a"),
        ("a", "x", "a@x"),
        ('[{"name": "a"}]', "", '[{"name": "a"}]'),
        (' {"name": "a"}', "x", json.dumps([{"name": "a", "interface": "x"}])),
        ('{"name": "a"}', "", json.dumps([{"name": "a"}])),
    ],
)
def test_command_sends_what_the_annotation_would_have(network: str, interface: str, expected: str) -> None:
    assert element(network, interface) == expected


def test_command_refuses_what_is_no_json() -> None:
    with pytest.raises(click.UsageError, match="NETWORK: not JSON"):
        element("{a", "")
