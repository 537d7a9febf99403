"""loopback: brings up the pod's lo."""

from __future__ import annotations

from wirespeed.cni import result as results
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.plugins.reference import pod as pods

LO = "lo"


class Loopback:
    """The plugin (`wirespeed.cni.plugin.Plugin`). Whatever interface the request names, it is about lo."""

    def add(self, request: Request) -> Result:
        previous = request.config.get("prevResult")
        with pods.opened(request) as sides:
            lo = pods.find(sides.pod, LO)
            with pods.interface_errors(LO):
                sides.pod.set_link(lo.index, up=True)
            addresses = _addresses(sides.pod, lo.index)
        if previous is not None:
            return results.read(previous)
        interface = {"name": LO, "mac": "00:00:00:00:00:00", "sandbox": request.netns}
        ips = [{"interface": 0, "address": each} for each in addresses]
        return {**results.empty(), "interfaces": [interface], "ips": ips}

    def delete(self, request: Request) -> None:
        with pods.opened_pod(request) as pod:
            if pod is not None:
                with pods.interface_errors(LO):
                    pod.set_link(pods.find(pod, LO).index, up=False)

    def check(self, request: Request) -> None:
        with pods.opened(request) as sides:
            pods.raise_drift([] if pods.find(sides.pod, LO).up else ["lo is down"])

    def gc(self, request: Request) -> None:
        """Nothing outlives the pod's network namespace."""

    def status(self, request: Request) -> None:
        """It needs nothing of the node."""


def _addresses(pod: Rtnl, index: int) -> list[str]:
    """Return the first address of each family. Raises Error(ADDRESS) for one that is no loopback address."""
    found: dict[int, str] = {}
    for each in pod.addresses(index):
        if not each.ip.is_loopback:
            raise Error(Kind.ADDRESS, "expected only loopback addresses on lo", got=str(each.ip))
        found.setdefault(each.version, each.with_prefixlen)
    return [found[version] for version in sorted(found)]
