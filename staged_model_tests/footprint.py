"""The most memory in bytes that answering takes: `python footprint.py BUNDLE`."""

import re
import resource
import sys
from pathlib import Path

import numpy as np

from pulmo.core.bundle import verify
from pulmo.inference.engine import load


def main() -> None:
    """Answer one picture and say what it took."""
    bundle = verify(Path(sys.argv[1]))
    spec = bundle.info.specification.input
    engine = load(bundle, threads=1)
    engine(np.zeros((1, spec.channels, spec.height, spec.width), dtype=np.uint8))
    print(_peak())  # noqa: T201 - its answer


def _peak() -> int:
    status = Path("/proc/self/status")  # rusage would count what the parent held before exec
    if status.is_file():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"))
        if found:
            return 1024 * int(found[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


main()
