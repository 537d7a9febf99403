"""The node's web page in a browser: what it shows of a node and its pods, what is old, and what it never runs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.apiserver import ApiServer
from tests.node import chromium
from tests.node.chromium import Browser, Page
from tests.node.conftest import ROOT, Agent
from tests.node.deviceplugins import pool_of_vfs
from tests.node.test_web import served
from wirespeed.agent import views, web, webserver
from wirespeed.agent.address import Address
from wirespeed.agent.views import View
from wirespeed.doctor.finding import Finding
from wirespeed.kernel import netns as namespaces
from wirespeed.node import ClusterConfig, Node, NodeConfig, open_journal
from wirespeed.observe.layout import Topology
from wirespeed.observe.rates import Interval
from wirespeed.plugins.meta.delegate import Delegate, planned_rows
from wirespeed.state.calls import Call
from wirespeed.state.journal import AttachmentStep
from wirespeed.trace import Step

HOSTILE = "</td><img src=x onerror=globalThis.owned=1><script>globalThis.owned=1</script>"
ANSWERED = "(name) => performance.getEntriesByName(`${location.origin}/v1/${name}`).some((one) => one.responseEnd)"
LIVE = "document.getElementById('state').textContent === 'live'"
POD = {"namespace": "default", "pod": "vfw", "container": "c0ffee", "ifname": "net1", "network": "default/left"}
TOPOLOGY = {
    "node": "n1",
    "pfs": [
        {
            "address": "0000:18:00.0",
            "name": "ens1f0",
            "driver": "ice",
            "model": "Ethernet Controller E810-C for QSFP",
            "numaNode": 0,
            "up": True,
            "carrier": True,
            "speed": 100_000,
            "mtu": 1500,
            "eswitch": "switchdev",
            "totalVfs": 64,
            "rdma": [],
            "functions": [
                {
                    "kind": "VF",
                    "address": f"0000:18:01.{number}",
                    "index": number,
                    "driver": "vfio-pci" if number == 0 else "iavf",
                    "interface": None
                    if number == 0
                    else {
                        "name": f"ens1f0v{number}",
                        "mac": "3e:00:00:00:00:01",
                        "mtu": 1500,
                        "up": True,
                        "carrier": True,
                    },
                    "settings": {"mac": f"02:00:00:00:00:0{number}", "vlan": 100 if number == 0 else None},
                    "representor": f"ens1f0_{number}",
                    "bridge": "br0" if number == 0 else "",
                    "rdma": [],
                    "vdpa": "",
                    "pool": "intel.com/vfs",
                    "pod": POD if number == 0 else None,
                    "user": "used by libvirt" if number == 3 else "",
                }
                for number in range(4)
            ],
        }
    ],
    "switches": [
        {
            "kind": "ovs-dpdk",
            "bridge": "br-dpdk",
            "datapath": "netdev",
            "others": ["dpdk0"],
            "ports": [
                {
                    "name": "vhost-1",
                    "kind": "vhostuser",
                    "state": "up",
                    "vlan": 7,
                    "trunk": [],
                    "mtu": 0,
                    "pod": POD,
                }
            ],
        }
    ],
    "faults": ["VPP does not answer"],
}
DOCTOR = [
    {
        "id": f"check-{severity}",
        "subject": "Network cards and PCIe",
        "severity": severity,
        "thing": "ens1f0",
        "found": f"found for {severity}",
        "expected": "16.0 GT/s, x16",
        "why": "the link limits the rate",
        "source": "PCI Express Base Specification",
        "fix": "move the card",
    }
    for severity in ("ok", "info", "warning", "error")
]


@pytest.mark.parametrize(
    ("made", "kind"),
    [(TOPOLOGY, Topology), (DOCTOR, list[Finding]), (lambda: Rates()(None), Interval)],
    ids=["topology", "doctor", "rates"],
)
def test_made_views_are_what_the_agent_may_answer(made: Any, kind: Any) -> None:
    value = made() if callable(made) else made
    known = msgspec.to_builtins(msgspec.convert(value, kind))
    assert _keys(value) <= _keys(known), "a name that no view has"


def _keys(value: Any) -> set[str]:
    """The keys of all objects in a JSON value."""
    if isinstance(value, dict):
        return set(value).union(*map(_keys, value.values()))
    return set().union(*map(_keys, value)) if isinstance(value, list | tuple) else set()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if chromium.program() is None:
        message = f"needs a browser: install {chromium.PROGRAMS[0]}"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with Browser(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node whose journal and history have pods, one of them with a problem."""
    (tmp_path / "manifests").mkdir()
    config = NodeConfig(
        state=str(tmp_path / "state.db"),
        attachments=str(tmp_path / "attachments"),
        kubelet=str(tmp_path / "kubelet"),
        cluster=ClusterConfig(manifests=str(tmp_path / "manifests")),
        node_name="n1",
    )
    with closing(Node(config)) as made:
        _attach(made, "c0ffee", "vfw", "net1", AttachmentStep.ADDED)
        _attach(made, "badcafe", "left-over", "net1", AttachmentStep.DELETING)
        made.live.began = time.monotonic()
        made.calls.append(_failed_call())
        yield made


def _attach(node: Node, container: str, pod: str, interface: str, step: AttachmentStep) -> None:
    delegate = Delegate(
        configuration="meta",
        request_ifname="eth0",
        label="default/left",
        raw={},
        version="1.1.0",
        ifname=interface,
        args={"K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": pod},
        device="0000:18:01.0",
        resource="intel.com/vfs",
    )
    with namespaces.opened("/proc/thread-self/ns/net") as own:  # it exists: this is no pod that is gone
        rows = planned_rows([delegate], container, "/proc/thread-self/ns/net", own.identity)
    with closing(open_journal(node.config)) as journal:
        journal.plan([replace(row, step=step) for row in rows])


def _failed_call(pod: str = "default/vfw") -> Call:
    steps = [
        Step("attach", 0.01, 0.4, error="no driver"),
        Step("bind the driver", 0.1, 0.3, parent=0, error="no driver"),
    ]
    return Call(
        trace="0af7651916cd43dd8448eb211c80319c",
        verb="ADD",
        plugin="meta",
        container="c0ffee",
        ifname="eth0",
        pod=pod,
        uid="u1",
        at=1_796_000_000.0,
        seconds=0.5,
        code=101,
        error="device 0000:18:01.0: no driver",
        details="",
        steps=steps,
    )


class Rates:
    """A view whose numbers differ each time."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, node: Node | None) -> dict[str, Any]:
        self.asked += 1
        rates = {
            "rxBits": 1e9 * self.asked,
            "txBits": 2.5e6,
            "rxPackets": 1000.0,
            "txPackets": 10.0,
            "rxDrops": 3.0,
        }
        ports = [
            {"kind": "VF", "name": "ens1f0#0", "address": "0000:18:01.0", "pod": POD, "rates": rates},
            {"kind": "VF", "name": "ens1f0#1", "address": "0000:18:01.1", "pod": None, "rates": {"rxBits": None}},
        ]
        return {"time": 1.0, "seconds": 1.0, "ports": ports, "faults": []}


@pytest.fixture
def site(node: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The page of the node, with views whose content does not depend on this machine."""
    whole: dict[str, Callable[..., Any]] = {
        "topology": lambda _: TOPOLOGY,
        "rates": Rates(),
        "doctor": lambda _: DOCTOR,
    }
    made = {name: View(compute) for name, compute in whole.items()}
    monkeypatch.setattr(views, "VIEWS", {**views.VIEWS, **made})
    answer = web._Web(node, web.refuse_sites).answer
    with webserver.serving(Address("127.0.0.1", 0), None, answer) as address:
        yield f"http://{address}/"


def text(page: Page, selector: str = "body") -> str:
    return str(page.value(f"document.querySelector({json.dumps(selector)}).textContent"))


def rendered(page: Page, *sections: str) -> None:
    """Wait until these sections show something."""
    for section in sections:
        page.wait(f"!document.getElementById('{section}').hidden")


EVERYTHING = ("problems", "topology", "attachments", "ports", "findings", "errors")


def test_everything_that_the_node_has_is_on_the_page(browser: Browser, site: str) -> None:
    page = browser.open(site)
    rendered(page, *EVERYTHING)
    page.wait(LIVE)
    assert page.value("document.title") == "n1: wirespeed"
    shown = text(page, "#topology")
    for pf in TOPOLOGY["pfs"]:
        assert isinstance(pf, dict)
        for value in (pf["address"], pf["name"], pf["model"], "100 Gbit/s", "switchdev", "4 of 64 VFs"):
            assert value in shown
        for function in pf["functions"]:
            assert function["address"] in shown
    for part in ("default/vfw", "net1", "VLAN 100", "used by libvirt", "br-dpdk", "vhost-1", "VPP does not answer"):
        assert part in shown
    findings = text(page, "#findings")
    for each in DOCTOR:
        assert each["found"] in findings
    worst = page.value("document.querySelector('#findings summary').textContent")
    assert worst == "error Network cards and PCIe: ens1f0: found for error"
    for part in ("default/vfw", "net1", "default/left", "0000:18:01.0"):
        assert part in text(page, "#attachments")
    assert "its DEL failed: the runtime repeats it, or GC finishes it" in text(page, "#problems")
    assert "device 0000:18:01.0: no driver" in text(page, "#errors")
    assert page.complaints == []


def test_rates_are_shown_live_in_the_table_and_in_the_drawing(browser: Browser, site: str) -> None:
    page = browser.open(site)
    rendered(page, "ports", "topology")
    for selector in ("[data-rate=rx][data-name='VF ens1f0#0']", ".live[data-port='ens1f0#0']"):
        first = text(page, selector)
        page.wait(f"document.querySelector({json.dumps(selector)}).textContent !== {json.dumps(first)}")
        assert "Gbit/s" in text(page, selector)
    assert text(page, "[data-rate=drops][data-name='VF ens1f0#0']") == "3 /s"
    assert text(page, "[data-rate=rx][data-name='VF ens1f0#1']") == "–, –"  # noqa: RUF001 — the page's own dash
    assert page.complaints == []


def test_names_of_the_node_are_text_and_nothing_else(browser: Browser, site: str, node: Node) -> None:
    _attach(node, "evil", HOSTILE, HOSTILE, AttachmentStep.DELETING)
    node.calls.append(_failed_call(pod=f"default/{HOSTILE}"))
    page = browser.open(site)
    rendered(page, *EVERYTHING)
    assert HOSTILE in text(page, "#attachments")
    assert HOSTILE in text(page, "#problems")
    assert HOSTILE in text(page, "#errors")
    assert page.value("document.querySelectorAll('main img, main script').length") == 0
    assert page.value("globalThis.owned === undefined")
    assert page.complaints == []
    page.value(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'globalThis.owned = 1'}))"
    )
    page.wait("globalThis.owned === undefined")  # if a name were markup all the same, the policy would hold it
    assert "Content Security Policy" in "".join(page.complaints)


def test_click_on_a_pod_shows_why_and_the_keyboard_does_too(browser: Browser, site: str) -> None:
    page = browser.open(site)
    rendered(page, *EVERYTHING)
    page.value("document.querySelector('#errors button').focus()")
    page.press("Enter", "\r")
    page.wait("document.querySelector('#why details') !== null")
    shown = text(page, "#why")
    for part in ("default/vfw", "no driver", "bind the driver", "ADD eth0: failed with code 101 after 500.0 ms"):
        assert part in shown
    page.press("Escape")
    page.wait("!document.getElementById('why').open")
    page.value("document.getElementById('pod').focus()")
    page.type("nobody")
    page.press("Enter", "\r")
    page.wait("document.querySelector('#why .bad') !== null")
    assert "pod default/nobody: no call for it is known on this node" in text(page, "#why")


def test_focus_stays_when_the_node_changes(browser: Browser, site: str, node: Node) -> None:
    page = browser.open(site)
    rendered(page, "attachments")
    page.value("document.querySelector('#attachments button.pod').focus()")
    focused = page.value("document.activeElement.dataset.key")
    assert focused
    _attach(node, "fresh", "later", "net1", AttachmentStep.ADDED)
    page.wait("document.getElementById('attachments').textContent.includes('default/later')")
    assert page.value("document.activeElement.dataset.key") == focused


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_page_fits_its_window_in_light_and_dark(browser: Browser, site: str, width: int, dark: bool) -> None:
    page = browser.open(site, width=width, dark=dark)
    rendered(page, *EVERYTHING)
    parts = "[...document.querySelectorAll('body *:not(thead *)')]"  # narrow windows show no heads of tables
    wide = page.value(f"{parts}.filter((each) => each.getBoundingClientRect().right > innerWidth).length")
    assert wide == 0
    assert page.value("document.documentElement.scrollWidth") <= width
    back = page.value("getComputedStyle(document.body).backgroundColor")
    front = page.value("getComputedStyle(document.body).color")
    assert (_light(back), _light(front)) == (not dark, dark)


def _light(color: str) -> bool:
    return sum(map(int, color.removeprefix("rgb(").rstrip(")").split(","))) > 3 * 128


def test_what_is_old_is_shown_as_old_and_fresh_again_later(
    browser: Browser, agent_process: Callable[..., Agent], tmp_path: Path
) -> None:
    config = {"web": {"address": "127.0.0.1:0", "anonymous": True}, "nodeName": "n1", "folder": tmp_path / "agent"}
    agent = agent_process(**config)
    _, host, port = served(agent)
    page = browser.open(f"http://{host}:{port}/")
    page.wait(f"{list(views.VIEWS)}.filter((name) => name !== 'why').every({ANSWERED})")
    page.wait(LIVE)
    agent.stop()
    page.wait("document.body.classList.contains('stale')")
    page.wait("document.getElementById('state').textContent.includes('; shown is what was at ')")
    assert "no attachments" in text(page, "#attachments")
    agent_process(**{**config, "web": {"address": f"{host}:{port}", "anonymous": True}})
    page.wait(LIVE)
    assert not page.value("document.body.classList.contains('stale')")


def test_token_is_asked_for_and_kept_for_the_tab_alone(
    browser: Browser, agent_process: Callable[..., Agent], tmp_path: Path
) -> None:
    with ApiServer(tmp_path) as api:
        agent = agent_process(
            web={"address": "127.0.0.1:0"}, cluster={"kubeconfig": str(api.kubeconfig())}, nodeName="n1"
        )
        _, host, port = served(agent)
        page = browser.open(f"http://{host}:{port}/")
        page.wait("document.activeElement === document.getElementById('token')")
        assert page.value("document.getElementById('main').hidden")
        page.type("wrong")
        page.press("Enter", "\r")
        page.wait("document.getElementById('refusal').textContent === 'the API server does not accept this token'")
        page.type(api.reviews.token(api.reviews.user("ann", [("nodes", "", "n1")])))
        page.press("Enter", "\r")
        page.wait(LIVE)
        assert page.value("document.getElementById('login').hidden")
        assert page.value("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
        page.forget()
        page.go(f"http://{host}:{port}/")
        page.wait(LIVE)
        assert page.complaints == []


def test_pools_of_a_running_agent_are_shown(
    browser: Browser, agent_process: Callable[..., Agent], tmp_path: Path
) -> None:
    with pool_of_vfs(tmp_path) as (kubelet, _, keys):
        agent = agent_process(**keys, web={"address": "127.0.0.1:0", "anonymous": True})
        kubelet.wait_for("intel.com/vfs", 4, 20)
        kubelet.allocate("default", "vfw", "testpmd", "intel.com/vfs", 1)
        _, host, port = served(agent)
        page = browser.open(f"http://{host}:{port}/")
        rendered(page, "pools")
        cells = page.value("[...document.querySelectorAll('#pools td')].map((cell) => cell.textContent.trim())")
        assert cells == ["intel.com/vfs", "4", "1", "3", ""]
        assert page.complaints == []


@pytest.mark.skipif("PAGE_PICTURE" not in os.environ, reason="PAGE_PICTURE=yes writes docs/page.png")
def test_picture_of_the_documentation(browser: Browser, site: str) -> None:
    page = browser.open(site, height=1100)
    rendered(page, *EVERYTHING)
    page.wait("document.querySelector('.lines polyline').getAttribute('points').split(' ').length > 4")
    (ROOT / "docs/page.png").write_bytes(page.picture())
