"""`wirespeed completion`, and what a shell suggests as values of arguments: pods, networks, PFs, VFs, files.

The suggestions are for the parameter `shell_complete` of click's arguments and options. Each TAB starts the program
anew, so they read the journal and sysfs, and never the network. What cannot be read is not suggested: an error in
the middle of a command line helps nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wirespeed.cli import options

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from wirespeed.devices.pci import PciDevice
    from wirespeed.node import NodeConfig
    from wirespeed.plugins.meta.delegate import Delegate

    Items = list[CompletionItem[str]]
    Completer = Callable[[click.Context, click.Parameter, str], Items]

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_WIRESPEED_COMPLETE"  # click's: the program completes, instead of running, if it is set


@click.command(
    epilog=options.examples(
        'eval "$(wirespeed completion bash)"  # in ~/.bashrc',
        "wirespeed completion zsh > ~/.zfunc/_wirespeed_completion  # a directory of $fpath",
        "wirespeed completion fish > ~/.config/fish/completions/wirespeed.fish",
    )
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script that makes a shell complete `wirespeed`.

    It completes commands, options and their values: pods and networks that are attached on this node, PFs, VFs,
    files. pip installs these scripts below share/, where the shells find those of /usr and /usr/local themselves.
    """
    click.echo(script(shell), nl=False)


def script(shell: str) -> str:
    """Return the script for one of SHELLS."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415 — see wirespeed.cli.main

    found = get_completion_class(shell)
    assert found is not None
    # The template, not source(): for bash, that runs the bash of this machine to look at its version.
    return found.source_template % found(click.Command("wirespeed"), {}, "wirespeed", VARIABLE).source_vars()


# Suggestions


def pods(ctx: click.Context, _: click.Parameter, incomplete: str) -> Items:
    """Suggest the pods in the journal as namespace/name, or by name in the namespace default."""
    prefix = "default/" if incomplete.startswith("default/") else ""
    return _items(incomplete, lambda: (pod if "/" in pod else prefix + pod for pod in map(_pod, _attachments(ctx))))


def networks(ctx: click.Context, _: click.Parameter, incomplete: str) -> Items:
    """Suggest the networks in the journal, as namespace/name: all that a pod of this node has or had."""
    return _items(incomplete, lambda: (each.label for each in _attachments(ctx) if not each.master))


def networks_of_pod(ctx: click.Context, _: click.Parameter, incomplete: str) -> Items:
    """Suggest the networks of the pod that the command line names, and their interfaces."""
    namespace, _slash, name = str(ctx.params.get("pod") or "").rpartition("/")
    pod = _shown_pod(namespace or "default", name)

    def suggest() -> Iterator[str]:
        for each in _attachments(ctx):
            if _pod(each) == pod and not each.master:
                yield from (each.label, each.ifname)

    return _items(incomplete, suggest)


def pfs(ctx: click.Context, _: click.Parameter, incomplete: str) -> Items:
    """Suggest the PFs with SR-IOV by their interfaces, or by their addresses if they have none."""
    return _items(incomplete, lambda: (pf.own_netdev or pf.address for pf in _pfs(ctx)))


def vfs(ctx: click.Context, _: click.Parameter, incomplete: str) -> Items:
    """Suggest the VFs that exist as PF#number."""
    return _items(
        incomplete,
        lambda: (f"{pf.own_netdev or pf.address}#{n}" for pf in _pfs(ctx) for n, _ in pf.virtual_functions()),
    )


def words(*choices: str) -> Completer:
    """Suggest these words; the value may be another one."""
    return lambda _ctx, _parameter, incomplete: _items(incomplete, lambda: choices)


def files(*suffixes: str) -> Completer:
    """Suggest the files with these suffixes, and directories: of the only one that fits, what is in it.

    A shell puts a space behind the only suggestion; after a directory, it would be in the way.
    """

    def complete(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> Items:
        from click.shell_completion import CompletionItem  # noqa: PLC0415 — see wirespeed.cli.main

        found = _items(incomplete, lambda: _paths(incomplete, suffixes))
        if len(found) == 1 and found[0].value.endswith("/") and found[0].value != incomplete:
            found = complete(_ctx, _parameter, found[0].value) or found
        if any(not _is_plain(item.value) for item in found):  # only the shell knows how to quote it
            return [CompletionItem(incomplete, type="file")]
        return found

    return complete


def _items(incomplete: str, suggest: Callable[[], Iterable[str]]) -> Items:
    from click.shell_completion import CompletionItem  # noqa: PLC0415 — see wirespeed.cli.main
    from msgspec import MsgspecError  # noqa: PLC0415

    from wirespeed.errors import Error  # noqa: PLC0415

    try:
        found = {text for text in suggest() if text.startswith(incomplete)}
    except (Error, MsgspecError, OSError):
        return []
    return [CompletionItem(text) for text in sorted(found)]


# What is suggested


def _config(ctx: click.Context) -> NodeConfig:
    from wirespeed.node import load_config  # noqa: PLC0415 — see wirespeed.cli.main

    return load_config(ctx.params.get("config"))


def _attachments(ctx: click.Context) -> Iterator[Delegate]:
    """Yield the networks in the journal that pods have as interfaces of their own. Raises Error, OSError."""
    from wirespeed.plugins.meta.delegate import recorded_delegate  # noqa: PLC0415 — see wirespeed.cli.main
    from wirespeed.state.journal import read_attachments  # noqa: PLC0415

    for row in read_attachments(Path(_config(ctx).state)):
        delegate = recorded_delegate(row)
        if not delegate.auxiliary:
            yield delegate


def _pod(delegate: Delegate) -> str:
    return _shown_pod(delegate.args.get("K8S_POD_NAMESPACE", ""), delegate.args.get("K8S_POD_NAME", ""))


def _shown_pod(namespace: str, name: str) -> str:
    return name if namespace == "default" else f"{namespace}/{name}"


def _pfs(ctx: click.Context) -> list[PciDevice]:
    from wirespeed.devices import pci  # noqa: PLC0415 — see wirespeed.cli.main

    return [device for device in pci.network_devices(Path(_config(ctx).sysfs)) if device.total_vfs]


def _paths(incomplete: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield the paths that may follow, as they are written: a relative one stays relative, ~ stays ~."""
    head = incomplete[: incomplete.rfind("/") + 1]
    for path in Path(head or ".").expanduser().iterdir():
        if path.name.startswith(".") and not incomplete.removeprefix(head).startswith("."):
            continue
        if path.is_dir():
            yield f"{head}{path.name}/"
        elif path.suffix in suffixes:
            yield head + path.name


def _is_plain(text: str) -> bool:
    """Whether a shell reads the text as it is, in one word."""
    return all(each.isalnum() or each in "/._-+@%~#" for each in text)
