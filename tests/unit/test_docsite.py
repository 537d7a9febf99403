"""The documentation site: what is generated is current, links out of docs/ work, and faults are reported."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest
from mkdocs.config import load_config
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docsite import capture, commands, drawings, hook

ROOT = Path(__file__).parents[2]


def test_page_of_commands_is_what_the_code_says() -> None:
    assert commands.PAGE.read_text() == commands.page(), "make docs"


def test_page_of_commands_escapes_markdown_outside_of_code() -> None:
    text = commands._markdown("of <pod>_x, a_b and *.yaml, `not *here*`")
    assert text == r"of &lt;pod>\_x, a_b and \*.yaml, `not *here*`"


# Drawings


@pytest.mark.parametrize("source", list(drawings.sources()), ids=lambda source: str(source.name))
def test_drawing_is_made_of_the_text_beside_it(source: Path) -> None:
    assert drawings.is_current(source), "make drawings"


def test_every_drawing_has_its_text() -> None:
    drawn = {path.with_suffix("").name for path in drawings.FOLDER.glob("*.svg")}
    assert drawn == {source.with_suffix("").name for source in drawings.sources()}


def test_drawing_of_a_changed_text_is_not_current(tmp_path: Path) -> None:
    source = tmp_path / "a.dot"
    source.write_text("digraph {}")
    assert not drawings.is_current(source)
    source.with_suffix(".svg").write_text(f"<svg>{drawings._mark(source)}</svg>")
    assert drawings.is_current(source)
    source.write_text("digraph { a }")
    assert not drawings.is_current(source)


def test_drawing_of_the_rooms_has_the_layers_that_imports_are_held_to() -> None:
    contract, *_ = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rows = re.findall(r"<TR>.*?</TR>", (drawings.FOLDER / "rooms.dot").read_text(), re.DOTALL)
    drawn = [re.findall(r"<B>(.*?)</B>", row) for row in rows]
    assert drawn == [
        [name.removeprefix("wirespeed.") for name in layer.split(" | ")] for layer in contract["layers"]
    ]


# Terminals


def test_terminals_text_is_drawn_as_it_is_without_anything_from_elsewhere() -> None:
    drawn = capture.svg(["$ wirespeed why <pod>", "pod default/p: [bold]ADD[/bold] fails"], "why")
    words = " ".join(ElementTree.fromstring(drawn).itertext()).replace("\xa0", " ")
    assert "$ wirespeed why <pod>" in words
    assert "pod default/p: [bold]ADD[/bold] fails" in words
    assert "url(http" not in drawn
    assert "@font-face" not in drawn


# The site


def test_make_fails_on_a_warning_and_shows_it(tmp_path: Path) -> None:
    show = ["make", "--silent", "--eval", "show:; @echo '$(SITE)'", "show"]
    command = subprocess.run(show, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    options = command[command.index("build") :]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("[link](nowhere.md)\n")
    (tmp_path / "mkdocs.yml").write_text("site_name: test\nstrict: true\n")
    build = [sys.executable, "-m", "mkdocs", *options, "--config-file", str(tmp_path / "mkdocs.yml")]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "contains a link 'nowhere.md'" in done.stderr


def test_every_warning_is_an_error(config: MkDocsConfig) -> None:
    assert config.strict


def test_every_page_outside_of_docs_exists_and_is_in_the_navigation(config: MkDocsConfig) -> None:
    listed = str(config.nav)
    for path, place in hook.PAGES.items():
        assert (ROOT / path).is_file()
        assert f"'{place}'" in listed


# The hook


@pytest.fixture(scope="module")
def config() -> MkDocsConfig:
    loaded = load_config(str(ROOT / "mkdocs.yml"))
    loaded.plugins._current_plugin = "test"  # generated files note who made them
    return loaded


def page_of(config: MkDocsConfig, place: str, markdown: str) -> tuple[Page, Files]:
    """A page of the site with this text, and the files of the site."""
    file = File.generated(config, place, content=markdown)
    install = File.generated(config, "install.md", content="")
    files = hook.on_files(Files([install] if place in hook.PAGES.values() else [install, file]), config)
    page = Page(None, file, config)
    page.markdown = markdown
    return page, files


@pytest.mark.parametrize(
    ("place", "link", "expected"),
    [
        ("vf.md", "install.md#removing", "install.md#removing"),
        ("vf.md", "../examples/README.md", "examples.md"),
        ("development/x.md", "../../CONTRIBUTING.md", "contributing.md"),
        ("development/contributing.md", "docs/install.md#removing", "../install.md#removing"),
        ("examples.md", "../docs/install.md", "install.md"),
        ("install.md", "../SECURITY.md#verifying-a-release", "about/security-policy.md#verifying-a-release"),
        ("about/security-policy.md", "CHANGELOG.md", "changelog.md"),
        ("chart.md", "../../docs/install.md", "install.md"),
        ("chart.md", "values.yaml", "deploy/chart/values.yaml"),
        ("vf.md", "../examples/vfw/networks.yaml", "examples/vfw/networks.yaml"),
        ("vf.md", "https://example.org/a.md", "https://example.org/a.md"),
        ("vf.md", "../nowhere.md", "../nowhere.md"),
    ],
)
def test_link_leads_to_the_place_of_its_target(config: MkDocsConfig, place: str, link: str, expected: str) -> None:
    text = "A [page]({}) and `[code]({})`.\n\n```\n[code]({})\n```\n"
    page, files = page_of(config, place, text.format(link, link, link))
    assert hook.on_page_markdown(page.markdown or "", page=page, files=files) == text.format(expected, link, link)


def test_file_that_is_linked_is_in_the_site(config: MkDocsConfig) -> None:
    _, files = page_of(config, "vf.md", "[network](../examples/vfw/networks.yaml)")
    added = files.get_file_from_path("examples/vfw/networks.yaml")
    assert added is not None
    assert Path(str(added.abs_src_path)) == ROOT / "examples/vfw/networks.yaml"


def test_page_that_commonmark_reads_otherwise_is_reported(
    config: MkDocsConfig, caplog: pytest.LogCaptureFixture
) -> None:
    page, _ = page_of(config, "vf.md", "text\n- one\n- two\n")
    with caplog.at_level(logging.WARNING):
        hook.on_page_content("<p>text\n- one\n- two</p>", page=page)
    assert caplog.messages == ["docs/vf.md: expected 2 of <li>, as CommonMark has, got 0"]


def test_page_that_loads_from_another_host_is_reported(
    config: MkDocsConfig, caplog: pytest.LogCaptureFixture
) -> None:
    page, _ = page_of(config, "vf.md", "")
    output = '<a href="https://example.org/">a link</a><script src="//example.org/x.js"></script>'
    with caplog.at_level(logging.WARNING):
        hook.on_post_page(output, page=page)
    assert caplog.messages == ['docs/vf.md: loads from another host: <script src="//example.org/x.js">']
