"""pydicom's modules import each other in circles: no two threads may load them side by side."""

import subprocess
import sys

import pytest
from pydicom.data import get_testdata_file

# The first thread stops where pydicom is half there and lets the second one run into it.
PROGRAM = """
import sys, threading
from pulmo.core.preprocess import decode, preload

first, module, path = sys.argv[1:]
half, done = threading.Event(), threading.Event()

class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == module and not half.is_set():
            half.set()
            done.wait(0.5)

def show():
    with open(path, "rb") as file:
        print(decode(file.read(), 1).size)

def second():
    half.wait()
    show()
    done.set()

sys.meta_path.insert(0, Stop())
beside = threading.Thread(target=second)
beside.start()
preload() if first == "preload" else show()
beside.join()
show()
"""


@pytest.mark.parametrize(
    ("first", "module", "shown"),
    [("preload", "pydicom.pixels", 2), ("decode", "pydicom.valuerep", 3)],
)
def test_a_first_picture_beside_another_load_is_read(first: str, module: str, shown: int) -> None:
    path = str(get_testdata_file("SC_rgb_jpeg_dcmtk.dcm", download=False))
    command = [sys.executable, "-c", PROGRAM, first, module, path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.count("(100, 100)"), done.stderr) == (shown, "")
