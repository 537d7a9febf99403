"""What a pod asks for, as `kubectl wirespeed why` counts it."""

from __future__ import annotations

from typing import Any

import pytest

from wirespeed.cli.kubectl.pods import requests_of
from wirespeed.observe.why import before_its_node


def container(*, limits: dict[str, Any] | None = None, requests: dict[str, Any] | None = None, **more: Any) -> Any:
    return {"name": "c", "resources": {"limits": limits or {}, "requests": requests or {}}, **more}


VF, DPDK = "intel.com/vf", "intel.com/dpdk"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"containers": [container(limits={VF: "2", "cpu": "1", "hugepages-2Mi": "1Gi"})]}, {VF: 2}),
        ({"containers": [container(requests={VF: 1}), container(limits={VF: 1, DPDK: 3})]}, {VF: 2, DPDK: 3}),
        ({"containers": [container(requests={VF: 1}, limits={VF: 1})]}, {VF: 1}),
        # An init container runs alone, a sidecar beside the containers.
        ({"containers": [container(limits={VF: 2})], "initContainers": [container(limits={VF: 3})]}, {VF: 3}),
        ({"containers": [container(limits={VF: 2})], "initContainers": [container(limits={VF: 1})]}, {VF: 2}),
        (
            {
                "containers": [container(limits={VF: 2})],
                "initContainers": [container(limits={VF: 1}, restartPolicy="Always")],
            },
            {VF: 3},
        ),
        (
            {
                "containers": [container(limits={VF: 2})],
                "initContainers": [container(limits={VF: 1}, restartPolicy="Always"), container(limits={VF: 4})],
            },
            {VF: 5},
        ),
        ({"containers": [container(limits={"requests.kubernetes.io/x": 1, VF: 0})]}, {}),
        ({}, {}),
    ],
)
def test_extended_resources_are_counted_as_the_scheduler_counts_them(
    spec: dict[str, Any], expected: dict[str, int]
) -> None:
    assert requests_of(spec) == expected


def test_pod_whose_container_failed_was_not_refused_by_the_kubelet() -> None:
    ran = {"phase": "Failed", "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 1}}}]}
    answer = before_its_node({"spec": {"nodeName": "n1"}, "status": ran})
    assert answer == (
        "it has failed: a container of it ended with an error",
        ["`kubectl logs` shows what it wrote"],
    )
    refused = {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "no device"}
    answer = before_its_node({"spec": {"nodeName": "n1"}, "status": refused})
    assert answer is not None
    assert answer[0] == "the kubelet refused it: UnexpectedAdmissionError: no device"
    assert before_its_node({"spec": {"nodeName": "n1"}, "status": {"phase": "Pending"}}) is None
