"""``naf-hub completion``: what a shell needs to complete commands, options and registered names."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

PROGRAM = "naf-hub"
VARIABLE = "_NAF_HUB_COMPLETE"  # as click derives it from the program's name
SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command("completion")
@click.argument("shell", type=click.Choice(list(SHELLS)))
def completion_command(shell: str) -> None:
    """Print what makes SHELL complete commands, options and registered names at TAB.

    \b
    bash:  eval "$(naf-hub completion bash)"    in ~/.bashrc
    zsh:   eval "$(naf-hub completion zsh)"     in ~/.zshrc, behind compinit
    fish:  naf-hub completion fish > ~/.config/fish/completions/naf-hub.fish
    """
    completion = SHELLS[shell](click.Group(), {}, PROGRAM, VARIABLE)
    # Not .source(): for bash that would run a bash, to ask for its version.
    click.echo(completion.source_template % completion.source_vars())
