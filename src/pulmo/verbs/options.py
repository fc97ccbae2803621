"""Arguments and options that several verbs share."""

from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Changes of the configuration, such as trainer.max_epochs=3 or data=folder.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the history.")]

ASKED = "asked on the command line"


def actor() -> str:
    """Who is asking: user and machine."""
    import getpass
    import platform

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "unknown"
    return f"{user}@{platform.node()}"


def example(*lines: str) -> str:
    """The end of a verb's help: lines that can be typed."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)
