"""Tasks of the training VM: begin a training there, follow its log, see how far it is."""

import shlex
import subprocess
import sys

from invoke.context import Context
from invoke.tasks import task

from scripts.tools import Tools

SCRIPT = "scripts/train_vm.sh"
DRY = "print every command as it would be run, and run none"


@task(name="vm-train", help={"overrides": "key=value …, in quotes", "dry_run": DRY})
def vm_train(context: Context, overrides: str = "", dry_run: bool = False) -> None:
    """Train on the VM at this commit, register and stage the model; outlives the connection."""
    _vm("train", *shlex.split(overrides), dry_run=dry_run)


@task(name="vm-log", help={"follow": "until Ctrl-C", "dry_run": DRY})
def vm_log(context: Context, follow: bool = False, dry_run: bool = False) -> None:
    """The log of the training on the VM."""
    _vm("log", *(["--follow"] if follow else []), dry_run=dry_run)


@task(name="vm-status", help={"dry_run": DRY})
def vm_status(context: Context, dry_run: bool = False) -> None:
    """What the VM has, and how far its training is."""
    _vm("status", dry_run=dry_run)


def _vm(*words: str, dry_run: bool) -> None:
    flags = ["--dry-run"] if dry_run else []
    program = Tools.program("bash")
    sys.exit(subprocess.run([program, SCRIPT, *flags, *words], check=False).returncode)
