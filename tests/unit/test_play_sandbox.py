from __future__ import annotations

from pathlib import Path

import pytest

from wirespeed.errors import Error
from wirespeed.play import sandbox, session


def test_the_conf_is_a_file_or_the_first_one_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "20-b.conflist").write_text('{"cniVersion": "1.0.0", "name": "b", "plugins": [{"type": "ptp"}]}')
    (tmp_path / "10-a.conf").write_text('{"cniVersion": "1.1.0", "name": "a", "type": "wirespeed"}')
    (tmp_path / "00-readme").write_text("no conf")
    assert sandbox.load_conf(tmp_path).name == "a"
    assert sandbox.load_conf(tmp_path / "20-b.conflist").kinds == ["ptp"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not JSON"),
        ('{"cniVersion": "1.0.0", "name": "a"}', 'expected the key "type" or the key "plugins"'),
        ('{"cniVersion": "9.0.0", "name": "a", "type": "b"}', 'key "cniVersion": expected one of'),
        (None, "No such file or directory"),
    ],
)
def test_a_wrong_conf_is_refused_by_its_path(tmp_path: Path, text: str | None, told: str) -> None:
    file = tmp_path / "a.conf"
    if text is not None:
        file.write_text(text)
    with pytest.raises(Error) as refused:
        sandbox.load_conf(file)
    assert refused.value.msg.startswith(f"CNI conf {file}: ")
    assert told in refused.value.msg


def test_a_folder_without_a_conf_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"expected a file \*\.conf, \*\.conflist, \*\.json in that directory"):
        sandbox.load_conf(tmp_path)


def test_the_installed_shim_is_found_where_plugins_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "__file__", str(tmp_path / "installed/wirespeed/play/session.py"))
    with pytest.raises(
        Error, match=r"the shim is not there; expected an executable .*build/wirespeed-cni, /x/wirespeed"
    ):
        session.find_shim(None, ["/x"])
    shim = tmp_path / "wirespeed"
    shim.touch(mode=0o755)
    assert session.find_shim(None, ["/x", str(tmp_path)]) == shim


def test_a_shim_that_is_asked_for_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"expected an executable .*/none"):
        session.find_shim(tmp_path / "none", ["/opt/cni/bin"])
