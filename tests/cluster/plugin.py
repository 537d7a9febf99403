"""`kubectl wirespeed` of this tree, as users call it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.cluster.kube import Kube

ROOT = Path(__file__).parents[2]
_SCRIPT = """\
#!{python}
import sys
sys.path.insert(0, {root!r})
from wirespeed.cli.kubectl.{module} import main
main()
"""


class Told(NamedTuple):
    status: int
    out: str
    error: str


Ask = Callable[..., Told]


def installed(kube: Kube, folder: Path) -> Ask:
    """Install the plugin in a folder. Return a function that runs kubectl with it.

    Its first argument is the kubeconfig of a user, "" for the administrator.
    """
    for name, module in (("kubectl-wirespeed", "commands"), ("kubectl_complete-wirespeed", "completion")):
        (folder / name).write_text(_SCRIPT.format(python=sys.executable, root=str(ROOT), module=module))
        (folder / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}

    def run(user: str, *arguments: str, first: tuple[str, ...] = ("wirespeed",)) -> Told:
        done = subprocess.run(
            [kube.program, *first, *arguments],
            env={**environment, **({"KUBECONFIG": user} if user else {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        return Told(done.returncode, done.stdout, done.stderr)

    return run
