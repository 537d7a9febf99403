"""The API server's certificates, verified by the guest's Python, which uses VERIFY_X509_STRICT by default."""

from __future__ import annotations

import json
import ssl
import sys
from pathlib import Path

import pytest

from tests.apiserver import ApiServer
from tests.certificates import HAND_MADE, NOT_CRITICAL, WITHOUT_IDENTIFIERS, Profile
from wirespeed.kube.apiserver import ApiCluster
from wirespeed.kube.cluster import UnavailableError


@pytest.mark.parametrize("profile", [HAND_MADE, WITHOUT_IDENTIFIERS, NOT_CRITICAL])
def test_authorities_that_go_takes_are_taken(tmp_path: Path, profile: Profile) -> None:
    assert sys.version_info >= (3, 13)
    assert ssl.create_default_context().verify_flags & ssl.VERIFY_X509_STRICT
    with ApiServer(tmp_path, certificates=profile) as api:
        kubeconfig = api.kubeconfig()
        cluster = ApiCluster(str(kubeconfig), "n1")
        assert cluster.wait_synced(30.0)
        cluster.close()
        config = json.loads(kubeconfig.read_text())
        config["clusters"][0]["cluster"]["tls-server-name"] = "other"
        kubeconfig.write_text(json.dumps(config))
        cluster = ApiCluster(str(kubeconfig), "n1", watch=False)
        with pytest.raises(UnavailableError, match="certificate is not valid for 'other'"):
            cluster.check()
        cluster.close()
