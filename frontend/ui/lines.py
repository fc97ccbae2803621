"""The lines of the command line that do what a page does."""

import shlex

PROGRAM = ("uv", "run", "main.py")


def line(*words: str) -> str:
    """A line as it can be typed."""
    return shlex.join([*PROGRAM, *words])


def predict(model: str) -> str:
    """The line that answers files as the page does."""
    return line("predict", "PICTURES", "--model", model, "--overlay", "overlays")


def move(verb: str, name: str, version: str | None, reason: str) -> str:
    """The line that stages, promotes or rolls back."""
    if verb == "rollback":
        target = [name, *(["--to", version] if version else [])]
    else:
        target = [f"{name}:{version}", *(["--later"] if verb == "stage" else [])]
    return line("registry", verb, *target, "--reason", reason)
