"""
`headcount completion`: a script that completes commands and options.

Tests: tests/cli/test_config_and_completion.py.
"""

import click
from click.shell_completion import get_completion_class


@click.command(
    "completion",
    epilog="""
    \b
    Install it:
      bash   headcount completion bash >> ~/.bashrc
      zsh    headcount completion zsh >> ~/.zshrc
      fish   headcount completion fish > ~/.config/fish/completions/headcount.fish
    """,
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(context.find_root().command, {}, "headcount", "_HEADCOUNT_COMPLETE").source())
