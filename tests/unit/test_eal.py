"""What a DPDK application gets in its pod: the same from Python and from the C library."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cffi
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from wirespeed import eal
from wirespeed.cli.eal import eal as command
from wirespeed.eal import downward
from wirespeed.eal.resources import parse_list

C = Path(eal.__file__).parent / "c"
STATUS = "k8s.v1.cni.cncf.io/network-status"
DATA = "userspace/configuration-data"
MAPPED = "userspace/mapped-dir"
ENV = {"PCIDEVICE_INTEL_COM_SRIOV": "0000:01:02.5,0000:01:0a.4"}


class Library:
    """The C library, with the interface of the Python functions."""

    def __init__(self, built: Path) -> None:
        header = (C / "wirespeed_eal.h").read_text()
        self.ffi = cffi.FFI()
        code = re.sub(r"(?m)^#.*|/\*(.|\n)*?\*/|^extern \"C\" \{|^\}$", "", header)
        self.ffi.cdef(code)
        self.lib = self.ffi.dlopen(str(built))

    def read(self, sources: eal.Sources, **options: Any) -> tuple[list[dict[str, Any]], list[str] | str]:
        """The interfaces, and the arguments or the error message."""
        kept: list[Any] = []

        def text(value: object) -> Any:
            kept.append(self.ffi.new("char[]", str(value).encode()))
            return kept[-1]

        def texts(values: list[str]) -> Any:
            kept.append(self.ffi.new("const char *[]", [*map(text, values), self.ffi.NULL]))
            return kept[-1]

        given_sources = self.ffi.new("struct ws_eal_sources *")
        given_sources.podinfo = text(sources.podinfo)
        given_sources.sockets = texts([str(path) for path in sources.sockets]) if sources.sockets else self.ffi.NULL
        given_sources.root = text(str(sources.root).rstrip("/"))
        given_sources.hostname = text(sources.hostname)
        given_sources.environ = texts([f"{key}={value}" for key, value in sources.environ.items()])
        wanted = self.ffi.new("struct ws_eal_options *")
        wanted.cores, wanted.memory = options.get("cores", 0), options.get("memory", -1)
        wanted.file_prefix = text(options["file_prefix"]) if options.get("file_prefix") else self.ffi.NULL
        pod = self.lib.ws_eal_open(given_sources)
        try:
            found = [self._interface(self.lib.ws_eal_interface(pod, n)) for n in range(self.lib.ws_eal_count(pod))]
            count = self.ffi.new("int *")
            args = self.lib.ws_eal_arguments(pod, wanted, count)
            if args == self.ffi.NULL:
                return found, self._text(self.lib.ws_eal_error(pod))
            assert args[count[0]] == self.ffi.NULL
            return found, [self._text(args[n]) for n in range(count[0])]
        finally:
            self.lib.ws_eal_close(pod)

    def remove_stale(self, sources: eal.Sources) -> int:
        wanted = self.ffi.new("struct ws_eal_sources *")
        podinfo = self.ffi.new("char[]", str(sources.podinfo).encode())
        wanted.podinfo = podinfo
        pod = self.lib.ws_eal_open(wanted)
        removed = int(self.lib.ws_eal_remove_stale(pod))
        self.lib.ws_eal_close(pod)
        return removed

    def _text(self, value: Any) -> str:
        return bytes(self.ffi.string(value)).decode(errors="replace")

    def _interface(self, one: Any) -> dict[str, Any]:
        ips: list[str] = []
        while one.ips[len(ips)] != self.ffi.NULL:
            ips.append(self._text(one.ips[len(ips)]))
        names = ("name", "network", "kind", "mac", "pci", "path", "role", "mode", "driver", "secret", "version")
        found: dict[str, Any] = {name: self._text(getattr(one, name)) for name in names}
        numbers = ("mtu", "queues", "ring_size", "buffer_size")
        found |= {name: int(getattr(one, name)) for name in numbers}
        return found | {"default": bool(one.is_default), "ips": ips}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    built = tmp_path_factory.mktemp("c") / "libwirespeed_eal.so"
    flags = ("-std=c11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
    subprocess.run(["cc", *flags, "-o", built, C / "wirespeed_eal.c"], check=True)
    return Library(built)


def podinfo(folder: Path, **annotations: Any) -> Path:
    """Write the Downward API's annotations file; values that are not strings are written as JSON."""
    lines = [
        f"{key}={json.dumps(value if isinstance(value, str) else json.dumps(value, indent=4))}"
        for key, value in annotations.items()
    ]
    folder.mkdir(exist_ok=True)
    (folder / "annotations").write_text("\n".join(lines))
    return folder


def both(library: Library, sources: eal.Sources, **options: Any) -> tuple[list[eal.Interface], list[str] | str]:
    """The result of the Python functions, after checking that C returns the same."""
    found = eal.interfaces(sources)
    said: list[str] | str
    try:
        said = eal.arguments(sources, **options)
    except eal.EalError as error:
        said = str(error)
    assert library.read(sources, **options) == ([asdict(interface) for interface in found], said)
    return found, said


def sources(folder: Path, environ: dict[str, str] | None = None, **more: Any) -> eal.Sources:
    nowhere = folder / "nowhere"
    return eal.Sources(
        environ=environ or {}, podinfo=folder, root=more.pop("root", nowhere), hostname="app", **more
    )


def status(name: str, interface: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "interface": interface, "dns": {}, **more}


def pci(address: str) -> dict[str, Any]:
    return {"type": "pci", "version": "v1.0.0", "pci": {"pci-address": address}}


ETH0 = status("", "eth0", ips=["10.244.0.25"], mac="06:eb:7f:3a:48:85", default=True)


def shape(found: list[eal.Interface]) -> list[tuple[str, str, str, str]]:
    return [(each.kind, each.name, each.pci or each.path, each.version or each.role) for each in found]


# The results of userspace-CNI's samples


def test_devices_of_device_info(library: Library, tmp_path: Path) -> None:
    networks = [
        status("default/a", "net1", **{"device-info": pci("0000:01:02.5")}),
        status("default/b", "net2", **{"device-info": pci("0000:01:0A.4")}),
    ]
    folder = podinfo(tmp_path, **{STATUS: [ETH0, *networks]})
    found, args = both(library, sources(folder, ENV))
    assert shape(found) == [
        ("host", "eth0", "", ""),
        ("sr-iov", "net1", "0000:01:02.5", "v1.0.0"),
        ("sr-iov", "net2", "0000:01:0a.4", "v1.0.0"),
    ]
    assert (found[0].ips, found[0].mac) == (["10.244.0.25"], "06:eb:7f:3a:48:85")
    assert args[-4:] == ["-a", "0000:01:02.5", "-a", "0000:01:0a.4"]


def test_devices_without_device_info_go_to_the_networks_in_order(library: Library, tmp_path: Path) -> None:
    folder = podinfo(tmp_path, **{STATUS: [ETH0, status("default/a", "net1"), status("default/b", "net2")]})
    found, _ = both(library, sources(folder, ENV))
    assert shape(found) == [
        ("host", "eth0", "", ""),
        ("sr-iov", "net1", "0000:01:02.5", "1.0.0"),
        ("sr-iov", "net2", "0000:01:0a.4", "1.0.0"),
    ]


def test_an_entry_without_an_interface_name_is_the_hosts(library: Library, tmp_path: Path) -> None:
    cluster = {"name": "k8s-pod-network", "ips": ["172.16.34.200"], "default": True, "dns": {}}
    folder = podinfo(tmp_path, **{STATUS: [cluster, status("a", "net1"), status("b", "net2")]})
    found, _ = both(library, sources(folder, ENV))
    assert [each.kind for each in found] == ["host", "sr-iov", "sr-iov"]


def userspace(ifname: str, mode: str, file: str, **more: Any) -> dict[str, Any]:
    config = {"iftype": "vhostuser", "memif": {}, "vhost": {"mode": mode, "socketfile": file}, "bridge": {}}
    address = [{"version": "", "address": "50.0.0.1/24"}]
    return {"ifName": ifname, "name": "", "config": config | more, "ipResult": {"ips": address}}


def test_sockets_of_configuration_data(library: Library, tmp_path: Path) -> None:
    networks = [status("ovs-1", "net1", ips=["10.56.217.136"], device={}), status("ovs-2", "net2", device={})]
    data = [userspace(f"net{n}", "server", f"037ecb6703b0-net{n}") for n in (1, 2)]
    folder = podinfo(tmp_path, **{STATUS: [ETH0, *networks], DATA: data, MAPPED: "/var/lib/cni/usrspcni/"})
    found, args = both(library, sources(folder, ENV))
    assert shape(found) == [
        ("host", "eth0", "", ""),
        ("vhost-user", "net1", "/var/lib/cni/usrspcni/037ecb6703b0-net1", "server"),
        ("vhost-user", "net2", "/var/lib/cni/usrspcni/037ecb6703b0-net2", "server"),
        ("sr-iov", "", "0000:01:02.5", "1.0.0"),
        ("sr-iov", "", "0000:01:0a.4", "1.0.0"),
    ]
    assert found[1].ips == ["10.56.217.136"]
    assert args[-2:] == [
        "--vdev=virtio_user0,path=/var/lib/cni/usrspcni/037ecb6703b0-net1,server=1",
        "--vdev=virtio_user1,path=/var/lib/cni/usrspcni/037ecb6703b0-net2,server=1",
    ]


def test_configuration_data_alone(library: Library, tmp_path: Path) -> None:
    data = [userspace("eth_vhost0", "client", "/var/lib/nimbess/cni/8ca_vhost.sock")]
    folder = podinfo(tmp_path, **{DATA: data, MAPPED: "/var/lib/nimbess/cni"})
    found, args = both(library, sources(folder))
    assert shape(found) == [("vhost-user", "eth_vhost0", "/var/lib/nimbess/cni/8ca_vhost.sock", "client")]
    assert found[0].ips == ["50.0.0.1"]
    assert args[-1] == "--vdev=virtio_user0,path=/var/lib/nimbess/cni/8ca_vhost.sock"


def test_the_command_prints_arguments_or_interfaces(tmp_path: Path) -> None:
    folder = podinfo(tmp_path, **{DATA: [userspace("net1", "server", "s")], MAPPED: str(tmp_path)})
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "s"))
    run = CliRunner().invoke
    shown = run(command, ["--podinfo", str(folder), "--memory", "64", "--cores", "1", "--file-prefix", "x"])
    assert shown.output.split() == [
        *("-l", str(min(os.sched_getaffinity(0))), "-m", "64", "--file-prefix=x", "--single-file-segments"),
        *("--no-pci", f"--vdev=virtio_user0,path={tmp_path}/s,server=1"),
    ]
    assert not (tmp_path / "s").exists()  # removed, because nothing was listening on it
    listed = json.loads(run(command, ["--podinfo", str(folder), "--json"]).output)
    assert [(each["name"], each["kind"], each["ringSize"]) for each in listed] == [("net1", "vhost-user", 0)]
    failed = run(command, ["--podinfo", str(folder), "--cores", "8000"])
    assert (failed.exit_code, failed.output.startswith("Error: 8000 CPUs are asked for")) == (1, True)


# Where userspace-CNI's library fails


@pytest.mark.parametrize("mapped", ["/sockets", "/sockets/"])
def test_a_mapped_folder_needs_no_slash(library: Library, tmp_path: Path, mapped: str) -> None:
    folder = podinfo(tmp_path, **{DATA: [userspace("net1", "server", "s")], MAPPED: mapped})
    assert both(library, sources(folder))[0][0].path == "/sockets/s"


def test_the_info_of_a_resource_is_no_address(library: Library, tmp_path: Path) -> None:
    environ = {"PCIDEVICE_X_VF": "0000:01:02.5", "PCIDEVICE_X_VF_INFO": '{"0000:01:0a.4":{"generic":{}}}'}
    found, _ = both(library, sources(tmp_path, environ))
    assert [each.pci for each in found] == ["0000:01:02.5"]


def test_resources_are_taken_in_one_order(library: Library, tmp_path: Path) -> None:
    environ = {"PCIDEVICE_B": "0000:0b:00.0", "PCIDEVICE_A1": "0000:0a:01.1", "PCIDEVICE_A": "0000:0A:00.0, x ,"}
    folder = podinfo(tmp_path, **{STATUS: [status("a", "net1"), status("b", "net2")]})
    found, _ = both(library, sources(folder, environ))
    assert [(each.name, each.pci) for each in found] == [
        ("net1", "0000:0a:00.0"),
        ("net2", "0000:0a:01.1"),
        ("", "0000:0b:00.0"),
    ]


@pytest.mark.parametrize(
    "text",
    ["a=x", "a=", "=", '"', 'a="', f'{STATUS}="', f'{STATUS}="[', f"{STATUS}=[]", f'{STATUS}="\\"', "\\", "a=b=c"],
)
def test_a_broken_line_says_nothing_and_the_others_count(library: Library, tmp_path: Path, text: str) -> None:
    (tmp_path / "annotations").write_text(
        f"{text}\n{DATA}={json.dumps(json.dumps([userspace('n', 'server', 's')]))}\n"
    )
    found, _ = both(library, sources(tmp_path))
    assert [each.name for each in found] == ["n"]


def test_values_may_hold_equals_signs_spaces_and_anything(library: Library, tmp_path: Path) -> None:
    folder = podinfo(tmp_path, **{STATUS: [status('a = "b c"\\d\té', "net1"), {"name": 1, "ips": [None, "x"]}, 5]})
    found, _ = both(library, sources(folder))
    assert [(each.network, each.ips) for each in found] == [('a = "b c"\\d\té', []), ("", ["x"])]


def test_a_line_longer_than_a_scanner_takes(library: Library, tmp_path: Path) -> None:
    networks = [status("n" * 50, f"net{number}") for number in range(1000)]
    assert len(both(library, sources(podinfo(tmp_path, **{STATUS: networks})))[0]) == 1000


@pytest.mark.parametrize(
    ("quoted", "text"),
    [
        (r"a\tb\nc\\d\"e", 'a\tb\nc\\d"e'),
        (r"\a\b\f\r\v\'", "\a\b\f\r\v'"),
        (r"\u00e9\U0001f600\xc3\xa9\303\251", "é😀éé"),
        (r"\xff", "\ufffd"),
        (r"\q\x", "qx"),
    ],
)
def test_go_quoting(quoted: str, text: str) -> None:
    assert downward.unquote(quoted) == text


# Arguments


def test_everything_at_once(library: Library, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name, value in {
        "cpuset.cpus.effective": "0-1\n",
        "hugetlb.2MB.max": str(512 << 20),
        "hugetlb.1GB.max": "max",
    }.items():
        (root / "sys/fs/cgroup").mkdir(parents=True, exist_ok=True)
        (root / "sys/fs/cgroup" / name).write_text(value)
    vhost = {"type": "vhost-user", "version": "1.1.0", "vhost-user": {"mode": "server", "path": "/s/a-net2"}}
    memif = {"type": "memif", "version": "1.1.0", "memif": {"role": "slave", "path": "/s/m", "mode": "ethernet"}}
    vdpa = {"type": "vdpa", "vdpa": {"driver": "vhost", "path": "/dev/vhost-vdpa-0", "pci-address": "0000:01:0a.4"}}
    kernel = {"type": "vdpa", "vdpa": {"driver": "virtio", "path": "virtio0", "pci-address": "0000:01:0a.5"}}
    networks = [
        ETH0,
        status("d/sriov", "net1", **{"device-info": pci("0000:01:02.5")}),
        status("d/ovs", "net2", **{"device-info": vhost}),
        status("d/memif", "net3", **{"device-info": memif, "mac": "02:00:00:00:00:03"}),
        status("d/vdpa", "net4", **{"device-info": vdpa}),
        status("d/kernel", "net5", **{"device-info": kernel}),
    ]
    data = [
        userspace("net2", "server", "a-net2", queues=4, mac="02:00:00:00:00:02"),
        userspace("net3", "x", "x", iftype="memif", memif={"ringSize": 2048, "bufferSize": 4096, "secret": "s3"}),
    ]
    folder = podinfo(tmp_path / "podinfo", **{STATUS: networks, DATA: data})
    found, args = both(library, sources(folder, ENV | {"CONTAINER_NAME": "c 1", "POD_NAME": "app-7"}, root=root))
    assert [each.kind for each in found] == ["host", "sr-iov", "vhost-user", "memif", "vdpa", "vdpa"]
    cpus = ",".join(map(str, sorted(os.sched_getaffinity(0) & {0, 1}) or sorted(os.sched_getaffinity(0))))
    assert args == [
        *("-l", cpus, "-m", "512", "--file-prefix=ws-app-7-c-1", "--single-file-segments", "-a", "0000:01:02.5"),
        "--vdev=virtio_user0,path=/s/a-net2,server=1,queues=4,mac=02:00:00:00:00:02",
        "--vdev=virtio_user1,path=/dev/vhost-vdpa-0",
        "--vdev=net_memif0,id=0,role=client,socket=/s/m,socket-abstract=no,rsize=11,bsize=4096,secret=s3,"
        "mac=02:00:00:00:00:03",
    ]


def test_a_pod_without_anything(library: Library, tmp_path: Path) -> None:
    found, args = both(library, sources(tmp_path), memory=64, cores=1, file_prefix="mine")
    assert found == []
    assert args == ["-l", str(min(os.sched_getaffinity(0))), "-m", "64", "--file-prefix=mine", "--no-pci"]


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (
            userspace("n", "server", "a b"),
            "interface n: its path cannot be an argument: expected no space, comma or quote",
        ),
        (userspace("n", "server", ""), "interface n: its path cannot be an argument"),
        (userspace("n", "", "s", iftype="memif"), 'interface n: expected memif\'s role master or slave, got ""'),
        (
            userspace("n", "", "s", iftype="memif", memif={"role": "slave", "mode": "ip", "socketfile": "s"}),
            "interface n: DPDK has no memif of mode ip, only ethernet",
        ),
        (
            userspace("n", "", "s", iftype="memif", memif={"role": "slave", "secret": "a,b", "socketfile": "s"}),
            "interface n: its secret cannot be an argument",
        ),
    ],
)
def test_what_the_eal_cannot_be_told_is_an_error(
    library: Library, tmp_path: Path, entry: dict[str, Any], text: str
) -> None:
    _, said = both(library, sources(podinfo(tmp_path, **{DATA: [entry]})))
    assert isinstance(said, str)
    assert said.startswith(text)


def test_more_cpus_than_there_are(library: Library, tmp_path: Path) -> None:
    count = len(os.sched_getaffinity(0))
    _, said = both(library, sources(tmp_path), cores=count + 1)
    assert said == f"{count + 1} CPUs are asked for, and the container has {count}"


@pytest.mark.parametrize(
    ("files", "environ", "mib"),
    [
        ({"p/hugepages_1G_limit_c1": "2048", "p/hugepages_2M_request": "100"}, {"CONTAINER_NAME": "c1"}, 2148),
        ({"p/hugepages_1G_limit": "2048"}, {"CONTAINER_NAME": "c1"}, 2048),
        ({"p/hugepages_2M_limit_c2": "2048"}, {"CONTAINER_NAME": "c1"}, 0),
        ({"p/hugepages_2M_limit": str(1 << 30)}, {}, 1024),  # a volume whose divisor is 1
        ({"p/hugepages_2M_limit": "many", "p/hugepages_2M_request": "64"}, {}, 64),
        ({"r/hugetlb.2MB.max": str(1 << 30), "p/hugepages_2M_limit": "1"}, {}, 1024),
        ({"r/hugetlb/hugetlb.1GB.limit_in_bytes": str(1 << 30), "r/hugetlb.2MB.max": "max"}, {}, 1024),
        ({"r/hugetlb/hugetlb.1GB.limit_in_bytes": "9223372036854771712"}, {}, 0),
        ({"r/hugetlb.2MB.max": "0", "r/hugetlb/hugetlb.2MB.limit_in_bytes": str(1 << 30)}, {}, 0),
    ],
)
def test_hugepages(
    library: Library, tmp_path: Path, files: dict[str, str], environ: dict[str, str], mib: int
) -> None:
    for name, value in files.items():
        path = tmp_path / ("root/sys/fs/cgroup" if name[0] == "r" else "podinfo") / name[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    where = sources(tmp_path / "podinfo", environ, root=tmp_path / "root")
    assert eal.hugepages(where) == mib
    _, args = both(library, where)
    assert args[2:4] == (["-m", str(mib)] if mib else args[2:4])
    assert ("-m" in args) == bool(mib)


@pytest.mark.parametrize("file", ["cpuset.cpus.effective", "cpuset/cpuset.effective_cpus", "cpuset/cpuset.cpus"])
def test_cpus_are_those_of_the_containers_cpuset(library: Library, tmp_path: Path, file: str) -> None:
    mine = sorted(os.sched_getaffinity(0))
    path = tmp_path / "sys/fs/cgroup" / file
    path.parent.mkdir(parents=True)
    path.write_text(f"{mine[-1]},4000-4001\n")
    where = sources(tmp_path, root=tmp_path)
    assert eal.cpus(where) == [mine[-1]]
    assert both(library, where)[1][1] == str(mine[-1])
    path.write_text("4000\n")  # not usable: fall back to this process's CPU affinity
    assert both(library, where)[1][1] == ",".join(map(str, mine))


@pytest.mark.parametrize(
    ("text", "numbers"), [("0-2,5\n", {0, 1, 2, 5}), ("", set()), ("x,1", {1}), ("3-1", set()), ("-1", set())]
)
def test_lists_of_the_kernel(text: str, numbers: set[int]) -> None:
    assert parse_list(text) == numbers


# Files beside the sockets


def data_file(folder: Path, name: str, value: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(value))
    return path


def test_files_beside_the_sockets_tell_without_any_annotation(library: Library, tmp_path: Path) -> None:
    folder = tmp_path / "sockets"
    data_file(folder, "configData-a-net2.json", userspace("net2", "server", "a-net2"))
    data_file(folder, "configData-a-net1.json", userspace("net1", "client", "a-net1"))
    data_file(folder, "configData-a-net3.txt", userspace("net3", "client", "a-net3"))
    (folder / "configData-broken.json").write_text("{")
    found, _ = both(library, sources(tmp_path, sockets=(folder,)))
    assert [(each.name, each.path) for each in found] == [
        ("net1", f"{folder}/a-net1"),
        ("net2", f"{folder}/a-net2"),
    ]
    mapped = podinfo(tmp_path, **{MAPPED: str(folder)})
    assert both(library, sources(mapped))[0] == found


def test_the_folders_of_a_pools_devices_are_looked_into(library: Library, tmp_path: Path) -> None:
    for number in (1, 0):
        folder = tmp_path / f"run/vhost-user/vhost-{number}"
        data_file(folder, f"configData-a-net{number}.json", userspace(f"net{number}", "server", "s"))
    found, _ = both(library, sources(tmp_path, root=tmp_path))
    assert [(each.name, each.path) for each in found] == [
        ("net0", f"{tmp_path}/run/vhost-user/vhost-0/s"),
        ("net1", f"{tmp_path}/run/vhost-user/vhost-1/s"),
    ]


def test_files_of_other_pods_in_the_folder_are_theirs(library: Library, tmp_path: Path) -> None:
    data_file(tmp_path, "configData-a-net1.json", userspace("net1", "client", "a") | {"podName": "other"})
    path = data_file(tmp_path, "configData-b-net1.json", userspace("net1", "client", "b") | {"podName": "app"})
    os.utime(path, (1, 1))
    assert both(library, sources(tmp_path, sockets=(tmp_path,)))[0][0].path == f"{tmp_path}/b"
    where = sources(tmp_path, {"POD_NAME": "other"}, sockets=(tmp_path,))
    assert both(library, where)[0][0].path == f"{tmp_path}/a"
    assert both(library, sources(tmp_path, sockets=(path,)))[0][0].path == f"{tmp_path}/b"


def test_of_two_files_for_an_interface_the_newer_counts(library: Library, tmp_path: Path) -> None:
    for age, name in ((2, "a"), (3, "c"), (1, "b")):
        path = data_file(tmp_path, f"configData-{name}-net1.json", userspace("net1", "client", name))
        os.utime(path, (age, age))
    found, _ = both(library, sources(tmp_path, sockets=(tmp_path,)))
    assert [each.path for each in found] == [f"{tmp_path}/c"]


def test_nothing_is_left_when_memory_runs_out(tmp_path: Path) -> None:
    program = tmp_path / "no_memory"
    flags = ("-std=c11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-I", C)
    files = (Path(__file__).with_name("no_memory.c"), C / "wirespeed_eal.c")
    subprocess.run(["cc", *flags, "-o", program, *files], check=True)
    for place in ("mapped", "run/vhost-user/vhost-0", "run/vhost-user/vhost-1"):
        for number in range(2):
            data_file(tmp_path / place, f"configData-{number}.json", userspace(f"net{number}", "server", "s"))
    folder = podinfo(tmp_path / "podinfo", **{STATUS: [ETH0], MAPPED: str(tmp_path / "mapped")})
    done = subprocess.run([program, folder, tmp_path], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert int(done.stdout) > 50


def test_a_socket_that_a_killed_application_has_left_is_removed(library: Library, tmp_path: Path) -> None:
    remove: tuple[Callable[[eal.Sources], int], ...] = (
        lambda where: len(eal.remove_stale(eal.interfaces(where))),
        library.remove_stale,
    )
    for number, clean in enumerate(remove):
        folder = tmp_path / f"s{number}"
        folder.mkdir()
        entries = [userspace(name, "server", name) for name in ("left", "used", "none")]
        entries.append(userspace("theirs", "client", "theirs"))
        where = sources(podinfo(tmp_path / f"p{number}", **{DATA: entries, MAPPED: str(folder)}))
        kept = []
        for name in ("left", "used", "theirs"):
            kept.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            kept[-1].bind(str(folder / name))
        kept[1].listen()
        for one in (kept[0], kept[2]):
            one.close()
        assert clean(where) == 1
        assert sorted(path.name for path in folder.iterdir()) == ["theirs", "used"]
        kept[1].close()


# Arbitrary contents


_TEXT = st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=6)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)
_ADDRESS = st.sampled_from(["0000:01:02.5", "0000:01:0A.4", "0000:01:02.9", ""])
_INFO = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["pci", "vhost-user", "memif", "vdpa", "x"]) | _JSON,
        **dict.fromkeys(
            ("pci", "vhost-user", "memif", "vdpa"),
            st.fixed_dictionaries(
                {},
                optional={
                    "pci-address": _ADDRESS | _JSON,
                    "mode": st.sampled_from(["server", "client", "ethernet", "ip"]) | _JSON,
                    "role": st.sampled_from(["master", "slave"]) | _JSON,
                    "path": st.sampled_from(["/s/a", "/s/b c"]) | _JSON,
                    "driver": st.sampled_from(["vhost", "virtio"]),
                },
            )
            | _JSON,
        ),
    },
)
_ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "name": _TEXT,
        "interface": st.sampled_from(["eth0", "net1", "net2"]) | _JSON,
        "default": st.booleans() | _JSON,
        "ips": st.lists(_TEXT | _JSON, max_size=3) | _JSON,
        "mac": st.sampled_from(["02:00:00:00:00:01", "x"]),
        "mtu": _JSON,
        "device-info": _INFO | _JSON,
    },
)
_PART = st.fixed_dictionaries(
    {},
    optional={
        "mode": st.sampled_from(["server", "client", "ip"]) | _JSON,
        "role": st.sampled_from(["master", "slave"]) | _JSON,
        "socketfile": st.sampled_from(["s", "/a/s", "a,b"]) | _JSON,
        "ringSize": st.sampled_from([1024, 3]) | _JSON,
        "bufferSize": _JSON,
        "secret": st.sampled_from(["s", "a b"]) | _JSON,
    },
)
_CONFIG = st.fixed_dictionaries(
    {},
    optional={
        "ifName": st.sampled_from(["net1", "net2", "net3"]) | _JSON,
        "name": _TEXT,
        "config": st.fixed_dictionaries(
            {},
            optional={
                "iftype": st.sampled_from(["vhostuser", "memif"]) | _JSON,
                "vhost": _PART | _JSON,
                "memif": _PART | _JSON,
                "queues": st.integers(0, 3) | _JSON,
                "mac": st.sampled_from(["02:00:00:00:00:01", "x"]),
                "mtu": _JSON,
            },
        )
        | _JSON,
        "ipResult": st.fixed_dictionaries({}, optional={"ips": st.lists(_JSON, max_size=2) | _JSON}) | _JSON,
    },
)
_ENVIRON = st.dictionaries(
    st.sampled_from(
        ["PCIDEVICE_A", "PCIDEVICE_A_1", "PCIDEVICE_A_INFO", "PCIDEVICE_", "POD_NAME", "CONTAINER_NAME"]
    ),
    st.lists(_ADDRESS | _TEXT, max_size=3).map(",".join),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    entries=st.lists(_ENTRY | _JSON, max_size=4) | _JSON,
    data=st.lists(_CONFIG | _JSON, max_size=3) | _JSON,
    mapped=st.sampled_from(["", "/s", "/s/", "a b"]),
    environ=_ENVIRON,
)
@example(entries=[], data=[], mapped="", environ={"PCIDEVICE_A": " 0000:01:02.5\t,"})
def test_python_and_c_say_the_same_whatever_is_written(
    library: Library, tmp_path: Path, entries: Any, data: Any, mapped: str, environ: dict[str, str]
) -> None:
    folder = podinfo(tmp_path, **{STATUS: json.dumps(entries), DATA: json.dumps(data), MAPPED: mapped})
    both(library, sources(folder, environ))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.sampled_from('{}[]",:\\ \n\tunr01.5e-+tfx='), max_size=40), name=st.sampled_from([STATUS, DATA])
)
def test_broken_text_stops_neither(library: Library, tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / "annotations").write_text(f'{name}="{text}"\n{text}\n')
    both(library, sources(tmp_path))
    both(library, sources(podinfo(tmp_path, **{name: text})))
