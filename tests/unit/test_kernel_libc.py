"""The declaration of setns(2) that is loaded without cffi's parser."""

import ast
from pathlib import Path

import cffi

from wirespeed.kernel import libc


def test_the_declaration_is_what_cffi_writes_for_it(tmp_path: Path) -> None:
    written = tmp_path / "written.py"
    builder = cffi.FFI()
    builder.set_source(libc.NAME, None)
    builder.cdef(libc.DECLARED)
    builder.emit_python_code(str(written))
    assert _arguments(Path(libc.__file__).read_text()) == _arguments(written.read_text())


def _arguments(source: str) -> dict[str | None, object]:
    """The arguments of the only call in a module, by keyword."""
    [call] = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
