"""Parsing requests from environment and standard input."""

from __future__ import annotations

import json
import math
import os
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wirespeed.cni.request import Request, check_netns, ifname_fault, parse_args, parse_request
from wirespeed.errors import Error, Kind

ENVIRON = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "0123abc_.-",
    "CNI_NETNS": "/var/run/netns/pod",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin::/usr/lib/cni",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=p;NOTE=a=b;EMPTY=;",
    "HOME": "/root",
}
CONFIG = {"cniVersion": "1.1.0", "name": "net", "type": "probe", "anything": [1, 2.5, None, "ü"]}


def test_request_carries_what_the_runtime_gave() -> None:
    request = parse_request(ENVIRON, json.dumps(CONFIG).encode(), deadline=12.0)
    assert request == Request(
        command="ADD",
        container_id="0123abc_.-",
        netns="/var/run/netns/pod",
        ifname="eth0",
        args={"IgnoreUnknown": "1", "K8S_POD_NAME": "p", "NOTE": "a=b", "EMPTY": ""},
        path=("/opt/cni/bin", "/usr/lib/cni"),
        config=CONFIG,
        deadline=12.0,
    )
    assert list(request.args) == ["IgnoreUnknown", "K8S_POD_NAME", "NOTE", "EMPTY"]


def test_del_needs_no_netns() -> None:
    environ = {key: value for key, value in ENVIRON.items() if key != "CNI_NETNS"}
    assert parse_request(environ | {"CNI_COMMAND": "DEL"}, json.dumps(CONFIG).encode()).netns == ""


def test_del_takes_a_netns_of_any_form_for_it_gives_back_what_it_can() -> None:
    environ = ENVIRON | {"CNI_COMMAND": "DEL", "CNI_NETNS": "gone"}
    assert parse_request(environ, json.dumps(CONFIG).encode()).netns == "gone"


@pytest.mark.parametrize("command", ["GC", "STATUS"])
def test_gc_and_status_need_only_a_path(command: str) -> None:
    config = CONFIG | {"cni.dev/valid-attachments": []}
    environ = {"CNI_COMMAND": command, "CNI_PATH": "/opt/cni/bin"}
    assert parse_request(environ, json.dumps(config).encode()).command == command


@pytest.mark.parametrize("stdin", [b"", b"{", b'{"cniVersion": "1.0.0"}', b"[]"])
def test_version_needs_nothing(stdin: bytes) -> None:
    assert parse_request({"CNI_COMMAND": "VERSION"}, stdin).command == "VERSION"


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
def test_valid_attachments_are_read_under_both_names_of_the_specification(key: str) -> None:
    config = {key: [{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "net1"}]}
    assert Request(command="GC", config=config).valid_attachments == {("a", "eth0"), ("b", "net1")}


def test_null_attachments_are_an_empty_list_as_go_writes_it() -> None:
    assert Request(command="GC", config={"cni.dev/valid-attachments": None}).valid_attachments == set()


def test_own_netns_is_refused_for_add(tmp_path: os.PathLike[str]) -> None:
    link = os.path.join(tmp_path, "pod")
    os.symlink("/proc/self/ns/net", link)
    with pytest.raises(Error, match="not the node's own") as refused:
        check_netns(Request(command="ADD", netns=link), {})
    assert refused.value.kind == Kind.INVALID_REQUEST


@pytest.mark.parametrize("override", ["1", "true", "TRUE"])
def test_own_netns_is_taken_when_the_runtime_overrides(override: str) -> None:
    request = Request(command="ADD", netns="/proc/self/ns/net")
    check_netns(request, {"CNI_NETNS_OVERRIDE": override})


@pytest.mark.parametrize(("command", "netns"), [("DEL", "/proc/self/ns/net"), ("ADD", "/nonexistent")])
def test_own_netns_is_looked_for_in_add_alone_and_where_there_is_one(command: str, netns: str) -> None:
    check_netns(Request(command=command, netns=netns), {})


def test_other_netns_is_taken(tmp_path: os.PathLike[str]) -> None:
    own = os.path.join(tmp_path, "own")
    open(own, "w").close()
    check_netns(Request(command="ADD", netns="/proc/self/ns/net"), {}, own=own)


def test_passed_deadline_names_the_call() -> None:
    request = Request(command="ADD", container_id="c1", ifname="net1", deadline=time.monotonic())
    request.derive(deadline=math.inf).check_deadline()
    with pytest.raises(Error, match="ADD of container c1 net1") as late:
        request.check_deadline()
    assert late.value.kind == Kind.TRY_AGAIN


text = st.text(max_size=40)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=8,
)
configs = st.dictionaries(
    st.sampled_from(["cniVersion", "name", "type", "cni.dev/valid-attachments", "args"]) | text, values, max_size=5
)


@given(
    environ=st.dictionaries(
        st.sampled_from([*ENVIRON]), st.sampled_from([*ENVIRON.values(), "GC", "CHECK"]) | text
    ),
    stdin=st.binary(max_size=60) | configs.map(lambda config: json.dumps(config).encode()),
)
@example(environ=ENVIRON, stdin=b'{"a":1e999}')
@example(environ=ENVIRON, stdin=b"[" * 100_000)
def test_only_cni_errors_come_out_of_parsing(environ: dict[str, str], stdin: bytes) -> None:
    try:
        request = parse_request(environ, stdin)
    except Error as error:
        assert error.msg.isprintable()
    else:
        assert request.command == environ["CNI_COMMAND"]


@given(
    st.dictionaries(
        st.text(st.characters(categories=["L", "N"]), min_size=1),
        st.text(st.characters(categories=["L", "N", "P"], exclude_characters=";")),
    )
)
def test_args_are_read_as_they_are_written(args: dict[str, str]) -> None:
    assert parse_args(";".join(f"{key}={value}" for key, value in args.items())) == args


@given(st.text(max_size=20))
def test_name_without_fault_is_one_that_the_kernel_takes(name: str) -> None:
    if not ifname_fault(name):
        assert 0 < len(name.encode()) < 16
        assert name not in {".", ".."}
        assert not set(name) & set("/:% \t\n")
