from __future__ import annotations

import io

import pytest
from rich.console import Console

from wirespeed.play.pod import backoff
from wirespeed.play.screen import InterfaceRow, PodRow, Screen


@pytest.fixture
def written() -> io.StringIO:
    return io.StringIO()


def test_output_is_led_by_its_source(written: io.StringIO) -> None:
    Screen(Console(file=written)).output("default/vfw/testpmd", "Press enter to exit")
    assert written.getvalue() == "default/vfw/testpmd | Press enter to exit\n"


def test_output_may_be_left_out(written: io.StringIO) -> None:
    screen = Screen(Console(file=written), logs=False)
    screen.output("default/vfw/testpmd", "Press enter to exit")
    screen.line("then", "done")
    assert written.getvalue() == "then | done\n"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("\x1b[2J\x1b[1;1Hstatistics", "statistics"),
        ("\x1b[31mred\x1b[0m \x1bMtext", "red text"),
        ("bell\a, back\b", "bell\ufffd, back\ufffd"),
        ("[bold]no markup[/bold]", "[bold]no markup[/bold]"),
        ("x" * 300, "x" * 300),
    ],
)
def test_what_moves_or_colours_a_terminal_is_taken_out_of_output(
    written: io.StringIO, line: str, shown: str
) -> None:
    Screen(Console(file=written)).output("a", line)
    assert written.getvalue() == f"a | {shown}\n"


def test_a_state_is_told_when_it_changes(written: io.StringIO) -> None:
    screen = Screen(Console(file=written))
    for row in (
        PodRow("default/vfw", "Pending", "0/1", 0, ""),
        PodRow("default/vfw", "Pending", "0/1", 0, ""),
        PodRow("default/vfw", "Running", "0/1", 1, "exit status 1, again in 0 s"),
    ):
        screen.state(row)
    assert written.getvalue().splitlines() == [
        "pod default/vfw: Pending, ready 0/1",
        "pod default/vfw: Running, ready 0/1, restarts 1: exit status 1, again in 0 s",
    ]


def test_on_a_terminal_states_are_a_table(written: io.StringIO) -> None:
    screen = Screen(Console(file=written, force_terminal=True, width=100))
    row = PodRow("default/vfw", "Running", "1/1", 0, "")
    with screen.showing(lambda: [row]):
        screen.state(row)
        screen.output("default/vfw/main", "said")
    shown = written.getvalue()
    assert "Restarts" in shown
    assert "default/vfw/main | " in shown
    assert "pod default/vfw: Running" not in shown


def test_interfaces_are_a_table_that_is_not_cut_without_a_terminal(
    written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    row = InterfaceRow(
        "default/vfw", "net1", "default/data-left", "", "02:00:00:00:01:02", "0000:01:11.0", "vfio-pci"
    )
    Screen(Console(file=written)).interfaces([row])
    assert all(part in written.getvalue() for part in row)


def test_restarts_wait_as_the_kubelets_do() -> None:
    assert [backoff(crashes) for crashes in range(1, 9)] == [0, 10, 20, 40, 80, 160, 300, 300]
    assert backoff(10_000) == 300
