"""`wirespeed cni`: run one CNI call in this process, without the agent."""

from __future__ import annotations

import click

from wirespeed.cli import options


@click.command(
    epilog=options.examples(
        'echo \'{"cniVersion": "1.1.0"}\' | CNI_COMMAND=VERSION wirespeed cni sriov',
    )
)
@click.argument("name")
@click.pass_context
def cni(ctx: click.Context, name: str) -> None:
    """Run one call of the CNI plugin NAME, without the agent.

    The CNI environment variables and standard input are the call; standard output and the exit status are its
    result. This works under any runtime or meta-plugin. NAME is a plugin's name or one of its aliases. The agent's
    configuration file is $WIRESPEED_CONFIG, or /etc/wirespeed/agent.yaml.
    """
    import os  # noqa: PLC0415 — see wirespeed.cli.main
    import sys  # noqa: PLC0415
    from contextlib import ExitStack, closing  # noqa: PLC0415

    from wirespeed.cni import dispatch  # noqa: PLC0415
    from wirespeed.cni.plugin import Plugin  # noqa: PLC0415
    from wirespeed.node import Node, NodeConfig, load_config  # noqa: PLC0415

    if "CNI_COMMAND" not in os.environ:  # run by hand: reading standard input would block
        known = ", ".join(Node(NodeConfig()).plugins)
        raise click.UsageError(f"CNI_COMMAND is not set: a runtime calls this. NAME is one of {known}.")
    with ExitStack() as opened:

        def plugin() -> Plugin:
            return opened.enter_context(closing(Node(load_config(), once=True))).plugin(name)

        answer = dispatch.answer(plugin, os.environ, sys.stdin.buffer.read() if sys.stdin else b"")
    try:
        with open(1, "wb", closefd=False) as stdout:
            stdout.write(answer.stdout)
    except OSError as error:  # a result that nobody could read is no success
        raise click.ClickException(f"standard output: {error.strerror}") from error
    ctx.exit(answer.exit_code)
