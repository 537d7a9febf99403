"""Network namespaces of pods as the cluster network leaves them: with eth0 and its routes."""

from __future__ import annotations

import json
import subprocess

from tests.node.calling import until
from tests.node.conftest import Netns


def give_eth0(pod: Netns) -> None:
    """Create eth0 with an address and a default route, IPv4 and IPv6. IPv6 is then disabled for interfaces added
    later.

    The pod also gets a static route, as primary CNI plugins create for services.
    """
    commands = """
        link set lo up
        link add eth0 address 02:00:00:00:56:05 type veth peer name wire0 address 02:00:00:00:56:06
        link set wire0 up
        link set eth0 up
        addr add 10.56.0.5/16 dev eth0
        addr add fd00:56::5/64 dev eth0 nodad
        route add default via 10.56.0.1 dev eth0
        route add 10.96.0.0/12 via 10.56.0.1 dev eth0
        route add default via fd00:56::1 dev eth0
        route add fd00:96::/32 via fd00:56::1 dev eth0
    """
    sysctls = ("net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0")
    pod.run("sysctl", "-qw", *sysctls)
    subprocess.run(
        ["ip", "-n", pod.name, "-batch", "-"], input="\n".join(map(str.strip, commands.splitlines())),
        text=True, check=True,
    )  # fmt: skip
    pod.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
    settle(pod)


def settle(pod: Netns) -> None:
    """Wait until the kernel has finished its delayed IPv6 setup of interfaces that came up."""

    def settled() -> bool:
        shown = json.loads(pod.run("ip", "-6", "-j", "route", "show", "table", "local"))
        own = {(route["dev"], route["dst"]) for route in shown}
        off = pod.run("sh", "-c", "grep -l 1 /proc/sys/net/ipv6/conf/*/disable_ipv6 || true").split()
        without = {path.split("/")[-2] for path in off}
        for name, link in pod.links().items():
            if name == "lo" or name in without or "LOWER_UP" not in link["flags"]:
                continue
            six = [a["local"] for a in link["addr_info"] if a["family"] == "inet6"]
            expected = {(name, address) for address in (*six, "ff00::/8")}
            if not expected <= own or not any(address.startswith("fe80") for address in six):
                return False
        return True

    until(settled, "IPv6 is ready")
