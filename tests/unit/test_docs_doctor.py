"""docs/doctor.md: the tables are those of the checks, and every subject has one."""

from __future__ import annotations

from docsite import doctor
from wirespeed.doctor import CHECKS, Severity, Subject

TEXT = doctor.PAGE.read_text()


def test_tables_are_what_the_checks_declare() -> None:
    assert doctor.page(TEXT) == TEXT, "make docs"


def test_every_subject_has_a_table() -> None:
    assert doctor.subjects(TEXT) == [subject.value for subject in Subject]


def test_every_check_and_every_severity_is_told_of() -> None:
    assert [each for each in CHECKS if f"| `{each}` |" not in TEXT] == []
    assert [each for each in Severity if f"| `{each.value}` |" not in TEXT] == []
