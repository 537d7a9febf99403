"""Structs that several threads may be the first to decode at once."""

from __future__ import annotations

import subprocess
import sys

# msgspec inspects a class when it first decodes one, in Python, and is not thread-safe there. The test uses its own
# process, because earlier tests have already decoded some classes.
LOOK = """
import importlib, pkgutil
import msgspec, msgspec._utils
import wirespeed

for module in pkgutil.walk_packages(wirespeed.__path__, "wirespeed."):
    importlib.import_module(module.name)

def structs(kind):
    for each in kind.__subclasses__():
        yield each
        yield from structs(each)

def looked_into(*_):
    late.append(kind)
    raise TypeError

found = [kind for kind in structs(msgspec.Struct)
         if kind.__module__.startswith("wirespeed.") and not kind.__subclasses__()]
msgspec._utils._get_class_mro_and_typevar_mappings = looked_into
late = []
for kind in found:
    try:
        msgspec.convert({}, kind)
    except (msgspec.ValidationError, TypeError):
        pass
print(len(found), *(f"{kind.__module__}.{kind.__name__}" for kind in late))
"""


def test_structs_are_looked_into_when_they_are_imported() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], check=True, capture_output=True, text=True)
    count, *late = done.stdout.split()
    assert int(count) > 20
    assert late == []
