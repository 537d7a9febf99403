"""Kubeconfigs as kubectl finds and merges them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wirespeed.errors import Error
from wirespeed.kube import kubeconfig
from wirespeed.kube.credentials import Credentials


def config(server: str, token: str, *, name: str = "x", current: bool = True, **context: Any) -> dict[str, Any]:
    return {
        "clusters": [{"name": name, "cluster": {"server": server}}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, **context}}],
        **({"current-context": name} if current else {}),
    }


def write(path: Path, value: dict[str, Any]) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))
    return str(path)


def loaded(*files: str, context: str = "") -> tuple[str, str, str]:
    """The server, the Authorization header and the namespace."""
    credentials = Credentials(*files, context=context)
    configuration = credentials.load().configuration
    return configuration.host, configuration.get_api_key_with_prefix("BearerToken"), credentials.namespace


def test_option_comes_before_the_variable_and_that_before_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    first, second = write(tmp_path / "a", {}), write(tmp_path / "b", {})
    environment = {"KUBECONFIG": f"{first}:{tmp_path}/none::{second}"}
    assert kubeconfig.find("/given", environment) == ("/given",)
    assert kubeconfig.find("", environment) == (first, second)
    home = write(tmp_path / ".kube/config", {})
    assert kubeconfig.find("", {}) == (home,)


def test_without_a_kubeconfig_the_error_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(Error) as caught:
        kubeconfig.find("", {})
    assert caught.value.msg == (
        f"kubeconfig: {tmp_path}/.kube/config: no such file; --kubeconfig names the file, as for kubectl"
    )


def test_of_what_two_files_have_the_first_ones_is_taken(tmp_path: Path) -> None:
    first = write(tmp_path / "a", config("http://a", "ta", namespace="shop"))
    second = write(tmp_path / "b", config("http://b", "tb"))
    other = write(tmp_path / "c", config("http://c", "tc", name="y"))
    assert loaded(first, second, other) == ("http://a", "Bearer ta", "shop")
    assert loaded(second, first) == ("http://b", "Bearer tb", "default")
    assert loaded(first, other, context="y") == ("http://c", "Bearer tc", "default")


def test_parts_of_a_context_may_be_in_several_files_and_paths_are_relative_to_their_own(tmp_path: Path) -> None:
    whole = config("http://a", "", namespace="shop")
    whole["users"] = [{"name": "x", "user": {"tokenFile": "secret/token"}}]
    (tmp_path / "users/secret").mkdir(parents=True)
    (tmp_path / "users/secret/token").write_text("tf\n")
    users = write(tmp_path / "users/config", {"users": whole.pop("users")})
    rest = write(tmp_path / "rest/config", whole)
    assert loaded(rest, users) == ("http://a", "Bearer tf", "shop")


def test_unknown_context_is_told(tmp_path: Path) -> None:
    file = write(tmp_path / "a", config("http://a", "ta"))
    with pytest.raises(Error, match="Expected object with name nowhere in "):
        loaded(file, context="nowhere")


def test_changed_file_is_noticed_whichever_it_is(tmp_path: Path) -> None:
    first = write(tmp_path / "a", config("http://a", "ta"))
    second = write(tmp_path / "b", config("http://b", "tb", name="y"))
    credentials = Credentials(first, second)
    credentials.load()
    assert not credentials.changed()
    write(tmp_path / "b", config("http://b2", "tb2", name="y"))
    assert credentials.changed()
