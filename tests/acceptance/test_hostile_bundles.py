"""Hostile bundles and flipped bits: refused, nothing executed, nothing written outside.

Every bundle's sums and model digest fit its content unless the case is about them: who can write a
bundle can sum it too. Each case runs in a fork of one prepared process, with bounded memory and
time, under an audit hook that tells of processes, sockets, libraries and writes elsewhere.
"""

import json
import os
import pickle
import resource
import shutil
import signal
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pulmo.config.settings import Settings
from pulmo.core import bundle as bundles
from pulmo.core.bundle import CARD, FILES, GRAPH, INFO, REFERENCE, SIGNATURE, SUMS, WEIGHTS, Bundle
from pulmo.errors import PulmoError

MEMORY = 3 * 2**30  # beyond what the process has when the case begins
SECONDS = 60
CANARY = "CANARY-4711"
FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.",
             "socket.connect", "ctypes.dlopen", "shutil.unpack_archive")  # fmt: skip

Case = Callable[[Path], Any]
WHOLE: dict[str, Case] = {}  # refused by everything that opens a bundle
USED: dict[str, Case] = {}  # a whole bundle, refused when it is to answer


def case(kind: dict[str, Case]) -> Callable[[Case], Case]:
    def add(function: Case) -> Case:
        kind[function.__name__] = function
        return function

    return add


class Payload:
    """Unpickled, it leaves a mark."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def resum(folder: Path) -> None:
    """Let model digest and sums fit the files again."""
    try:
        info = bundles.BundleInfo.model_validate_json((folder / INFO).read_bytes())
        graph, weights = (folder / GRAPH).read_bytes(), (folder / WEIGHTS).read_bytes()
        digest = bundles.model_digest(graph, weights, info.specification)
        document = json.loads((folder / INFO).read_text()) | {"model_digest": digest}
        (folder / INFO).write_text(json.dumps(document))
    except (ValueError, OSError, MemoryError, RecursionError):
        pass
    lines = (f"{bundles.file_digest(folder / name)}  {name}\n" for name in FILES)
    (folder / SUMS).write_text("".join(lines))


def put(name: str, data: bytes) -> Case:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(data)
        resum(folder)

    return change


def sums(change: Callable[[str], str]) -> Case:
    return lambda folder: (folder / SUMS).write_text(
        change((folder / SUMS).read_text()), newline=""
    )


def info(change: Callable[[dict[str, Any]], Any]) -> Case:
    def apply(folder: Path) -> None:
        document = json.loads((folder / INFO).read_text())
        change(document)
        (folder / INFO).write_text(json.dumps(document))
        resum(folder)

    return apply


def replaced(name: str, make: Callable[[Path], Any]) -> Case:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return change


def sparse(name: str, size: int) -> Case:
    def change(folder: Path) -> None:
        with (folder / name).open("wb") as stream:
            stream.truncate(size)

    return change


def device(path: Path) -> None:
    try:
        os.mknod(path, 0o666 | 0o020000, os.makedev(1, 5))
    except OSError:
        path.symlink_to("/dev/zero")


def outside(folder: Path) -> Path:
    return folder.parent / "outside"


DIGEST = "0" * 64
WHOLE |= {
    "a pickle too many": lambda f: (f / "weights.pkl").write_bytes(pickle.dumps(Payload())),
    "a hidden module too many": lambda f: (f / ".pth.py").write_text("import os"),
    "a folder too many": lambda f: (f / "plugins").mkdir(),
    "a library too many": lambda f: (f / "custom_ops.so").write_bytes(b"\x7fELF"),
    "a twin in other letters": lambda f: (f / "ｍodel.onnx").write_bytes(b""),
    "a name that runs backwards": lambda f: (f / "txt\u202eexe.onnx").write_bytes(b""),
    "no sums": lambda f: (f / SUMS).unlink(),
    "sums that climb": sums(lambda t: t + f"{DIGEST}  ../outside\n"),
    "sums with an absolute path": sums(lambda t: t.replace(CARD, "/etc/passwd")),
    "sums with a NUL": sums(lambda t: t.replace(CARD, CARD + "\0.png")),
    "sums twice": sums(lambda t: t + t.splitlines()[0] + "\n"),
    "sums with CRLF": sums(lambda t: t.replace("\n", "\r\n")),
    "sums in capitals": sums(lambda t: t.upper()),
    "sums of another graph": sums(
        lambda t: t[: t.index(GRAPH) - 66] + DIGEST + t[t.index(GRAPH) - 2 :]
    ),
    "sums without an end": sparse(SUMS, 2**30),
    "sums through a link": replaced(SUMS, lambda p: p.symlink_to("/etc/passwd")),
    "sums from a pipe": replaced(SUMS, os.mkfifo),
    "a graph through a link": replaced(GRAPH, lambda p: p.symlink_to(outside(p.parent) / "secret")),
    "a document through a climbing link": replaced(
        INFO, lambda p: p.symlink_to("../outside/secret")
    ),
    "a link to itself": replaced(CARD, lambda p: p.symlink_to(CARD)),
    "weights from a pipe": replaced(WEIGHTS, os.mkfifo),
    "a graph that is a folder": replaced(GRAPH, lambda p: p.mkdir()),
    "a card that is a device": replaced(CARD, device),
    "no card": lambda f: (f / CARD).unlink(),
    "weights without an end": sparse(WEIGHTS, 2**42),
    "a card without an end": sparse(CARD, 2**40),
    "a signature through a link": replaced(SIGNATURE, lambda p: p.symlink_to("../outside/secret")),
    "a signature from a pipe": replaced(SIGNATURE, os.mkfifo),
    "a signature without an end": sparse(SIGNATURE, 2**40),
    "a document of brackets": put(INFO, b'{"curves":' + b"[" * 1_000_000),
    "a document of nested objects": put(INFO, b'{"a":' * 300_000),
    "a number without an end": put(INFO, b'{"format": 1, "score": ' + b"9" * 5_000_000 + b"}"),
    "a document that is no text": put(INFO, b"\xff\xfe\x00\xd8"),
    "a document that is a pickle": put(INFO, pickle.dumps(Payload())),
    "an empty document": put(INFO, b""),
    "not a number": info(lambda d: d["specification"].update(temperature=float("nan"))),
    "an infinite limit": info(lambda d: d["specification"]["outliers"].update(limit=1e999)),
    "a picture of a terabyte": info(lambda d: d["specification"]["input"].update(height=2**20)),
    "a class that rules the terminal": info(
        lambda d: d["specification"].update(classes=["DARK\x1b[2J", "BRIGHT"])
    ),
    "an unknown word": info(lambda d: d.update(on_load="os.system")),
    "a foreign model digest": lambda f: (
        info(lambda d: None)(f),
        (f / INFO).write_text(
            (f / INFO).read_text().replace('"model_digest": "', '"model_digest": "0')
        ),
        (f / SUMS).write_text("".join(f"{bundles.file_digest(f / n)}  {n}\n" for n in FILES)),
    ),
}


def graph(change: Callable[[onnx.ModelProto], Any]) -> Case:
    def apply(folder: Path) -> None:
        model = onnx.load_model_from_string((folder / GRAPH).read_bytes())
        change(model)
        (folder / GRAPH).write_bytes(model.SerializeToString())
        resum(folder)

    return apply


def external(location: str) -> Case:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[1]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "8")):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value

    return graph(change)


def before(*nodes: onnx.NodeProto, constants: tuple[onnx.TensorProto, ...] = ()) -> Case:
    """Nodes that read `raw` and write `unit`, in the place of the scaling."""

    def change(model: onnx.ModelProto) -> None:
        kept = [n for n in model.graph.node if "unit" not in n.output]
        del model.graph.node[:]
        model.graph.node.extend([kept[0], *nodes, *kept[1:]])
        model.graph.initializer.extend(constants)

    return graph(change)


def custom(domain: str, operator: str) -> Case:
    made = before(helper.make_node(operator, ["raw"], ["unit"], domain=domain, code="import os"))

    def change(folder: Path) -> None:
        made(folder)
        graph(lambda m: m.opset_import.append(helper.make_opsetid(domain, 1)))(folder)

    return change


def constant(name: str, value: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def endless() -> onnx.NodeProto:
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Sin", ["x"], ["y"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []),
         value("x", TensorProto.FLOAT, None)],
        [value("on", TensorProto.BOOL, []), value("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    return helper.make_node("Loop", ["trips", "true", "raw"], ["unit"], body=body)


def filled(shape: list[int]) -> Case:
    return before(
        helper.make_node("ConstantOfShape", ["shape"], ["much"]),
        helper.make_node("ReduceSum", ["much"], ["sum"], keepdims=0),
        helper.make_node("Add", ["raw", "sum"], ["unit"]),
        constants=(constant("shape", np.array(shape, np.int64)),),
    )


def lie(dims: list[int]) -> Case:
    def change(model: onnx.ModelProto) -> None:
        del model.graph.initializer[1].dims[:]
        model.graph.initializer[1].dims.extend(dims)

    return graph(change)


def npz(members: dict[str, bytes], size: int | None = None) -> Case:
    def change(folder: Path) -> None:
        with zipfile.ZipFile(folder / REFERENCE, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                with archive.open(name, "w", force_zip64=True) as member:
                    member.write(data)
                    for _ in range((size or 0) // 2**24):
                        member.write(bytes(2**24))
        resum(folder)

    return change


def npy(text: str) -> bytes:
    return b"\x93NUMPY\x02\0" + struct.pack("<I", len(text)) + text.encode()


def objects() -> bytes:
    head = "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    return npy(head) + pickle.dumps(np.array([Payload()], dtype=object))


HALF = "{'descr': '<f2', 'fortran_order': False, 'shape': (%s, 16), }\n"
USED |= {
    "external data by an absolute path": external("/etc/passwd"),
    "external data that climbs": external("../outside/secret"),
    "external data in the graph's own file": external(GRAPH),
    "external data with a NUL": external("model.onnx\0"),
    "external data in memory": external("*/_ORT_MEM_ADDR_/*"),
    "a custom operator": custom("evil.ops", "Run"),
    "an operator in Python": custom("ai.onnx.contrib", "PyOp"),
    "an operator of onnx that is none": custom("", "Exec"),
    "a graph that is a pickle": put(GRAPH, pickle.dumps(Payload())),
    "a graph of noise": put(GRAPH, np.random.default_rng(0).bytes(5000)),
    "an empty graph": put(GRAPH, b""),
    "a graph cut short": lambda f: put(GRAPH, (f / GRAPH).read_bytes()[:-20])(f),
    "a graph of groups": put(GRAPH, b"\x0b" * 100_000),
    "a graph of nothing but depth": put(GRAPH, b"\x3a\xff\xff\xff\xff\x0f"),
    "another input": graph(
        lambda m: m.graph.input[0].type.tensor_type.shape.dim[2].__setattr__("dim_value", 8)
    ),
    "no outputs": graph(lambda m: m.graph.ClearField("output")),
    "a loop without end": before(
        endless(), constants=(constant("trips", np.int64(2**62)), constant("true", True))
    ),
    "a terabyte of zeros": filled([2**38]),
    "sixteen gigabytes of zeros": filled([2**32]),
    "more zeros than can be counted": filled([2**40, 2**40]),
    "a weight that claims terabytes": lie([2**41, 1, 1, 1]),
    "a weight of negative size": lie([-2, 1, 1, 1]),
    "a circle": before(helper.make_node("Add", ["raw", "unit"], ["unit"])),
    "answers that are no numbers": before(
        helper.make_node("Div", ["raw", "none"], ["unit"]),
        constants=(constant("none", np.float32(0)),),
    ),
    "embeddings that are pickles": npz({"embeddings.npy": objects()}),
    "embeddings that unpack to gigabytes": npz({"embeddings.npy": npy(HALF % 2**27)}, 2**32),
    "embeddings that claim terabytes": npz({"embeddings.npy": npy(HALF % 2**40)}),
    "embeddings whose head is code": npz(
        {"embeddings.npy": npy("__import__('os').system('touch executed')\n")}
    ),
    "embeddings whose head nests": npz({"embeddings.npy": npy("(" * 5000 + "\n")}),
    "embeddings of others": npz({"embeddings.npy": npy(HALF % 2) + bytes(64)}),
    "embeddings elsewhere": npz({"../../outside/embeddings.npy": npy(HALF % 2) + bytes(64)}),
    "a reference that is a pickle": put(REFERENCE, pickle.dumps(Payload())),
    "no embeddings at all": npz(
        {"labels.npy": npy("{'descr': '<i8', 'fortran_order': False, 'shape': (0,), }\n")}
    ),
}


@case(USED)
def graphs_in_graphs(folder: Path) -> None:
    """A thousand `If` one inside another."""
    inner = helper.make_graph([helper.make_node("Identity", ["raw"], ["r"])], "g", [], [])
    for _ in range(200):
        node = helper.make_node("If", ["true"], ["r"], then_branch=inner, else_branch=inner)
        inner = helper.make_graph([node], "g", [], [])
        if inner.ByteSize() > 2**22:
            break
    node = helper.make_node("If", ["true"], ["unit"], then_branch=inner, else_branch=inner)
    before(node, constants=(constant("true", True),))(folder)


def uses(folder: Path, state: Path) -> dict[str, Callable[[], object]]:
    """Every way in which a bundle's folder reaches Pulmo."""
    from pulmo.inference import choice
    from pulmo.jobs.predict import predict
    from pulmo.registry.local import open_registry
    from pulmo.serving.models import Model
    from pulmo.wiring import open_bundle, open_source

    choice.installed = lambda: False  # OpenVINO tells its maker of every import
    settings = Settings()
    registry = open_registry(f"sqlite:///{state}/registry.db", str(state / "bundles"))
    return {
        "verify": lambda: bundles.verify(folder),
        "register": lambda: registry.register(folder, actor="eve"),
        "predict": lambda: list(
            predict(open_bundle(settings, str(folder)), [str(state / "grey.png")])
        ),
        "serve": lambda: Model(open_source(settings, str(folder)).newest(None).bundle),
    }


def run_in_child(folder: Path, state: Path) -> dict[str, str]:
    """What each use said, as told by a fork that may not do much; `told` is what it did besides."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        os.chdir(state)
        signal.alarm(SECONDS)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
        told: dict[str, str] = {"told": ""}

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            writes = (
                event == "open"
                and isinstance(arguments[1], str)
                and set(arguments[1]) & set("wax+")
            )
            allowed = (str(state), "/dev/null", "/tmp/")
            if event.startswith(FORBIDDEN) or (
                writes and not str(arguments[0]).startswith(allowed)
            ):
                told["told"] += f"{event} {arguments!r:.80}; "

        sys.addaudithook(watch)
        for name, use in uses(folder, state).items():
            try:
                use()
                told[name] = "taken"
            except PulmoError as error:
                told[name] = "refused" + (" with the secret" if CANARY in str(error) else "")
            except BaseException as error:
                told[name] = f"{type(error).__name__}: {error}"
        os.write(sending, json.dumps(told).encode()[:60_000])
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    return json.loads(said) if said else {"told": f"ended by {status}"}


@pytest.fixture(scope="module")
def prepared(toy_bundle: Bundle, grey_png: Callable[[int], bytes], tmp_path_factory: Any) -> Path:
    """A place with a picture; everything that is imported is imported once, before the forks."""
    from pulmo.jobs.predict import predict
    from pulmo.registry.local import open_registry  # noqa: F401
    from pulmo.serving.models import Model  # noqa: F401

    folder = Path(tmp_path_factory.mktemp("state"))
    (folder / "grey.png").write_bytes(grey_png(240))
    list(predict(toy_bundle, [str(folder / "grey.png")]))
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", ["nothing is wrong", *WHOLE, *USED])
def test_a_hostile_bundle_is_refused_and_does_nothing(
    name: str, toy_bundle: Bundle, prepared: Path, tmp_path: Path
) -> None:
    folder, state = tmp_path / "bundle", tmp_path / "state"
    shutil.copytree(toy_bundle.path, folder)
    shutil.copytree(prepared, state)
    outside(folder).mkdir()
    (outside(folder) / "secret").write_text(CANARY * 10)
    hostile = {**WHOLE, **USED}.get(name)
    if hostile is not None:
        hostile(folder)
    before_it = snapshot(outside(folder))
    said = run_in_child(folder, state)
    assert said.pop("told") == ""
    wanted = dict.fromkeys(("verify", "register", "predict", "serve"), "refused")
    if name in USED:  # a whole bundle of an unusable model may be kept; it is never in production
        wanted |= {"verify": "taken", "register": "taken"}
    assert said == (dict.fromkeys(wanted, "taken") if hostile is None else wanted)
    assert snapshot(outside(folder)) == before_it
    assert not list(tmp_path.rglob("executed"))


def test_there_are_more_than_forty() -> None:
    assert len(WHOLE) + len(USED) >= 70
    assert not set(WHOLE) & set(USED)


def test_one_flipped_bit_in_each_stored_file_is_refused(toy_bundle: Bundle, tmp_path: Path) -> None:
    from pulmo.core.ports import ModelRef
    from pulmo.registry.local import open_registry
    from pulmo.registry.signing import Keys, make_keys

    keys = Keys(*make_keys(tmp_path / "keys"))
    registry = open_registry(f"sqlite:///{tmp_path}/r.db", str(tmp_path / "bundles"), keys=keys)
    ref = ModelRef.parse("toy")
    registry.register(toy_bundle.path, actor="ada")
    stored = registry.fetch(ref)
    flipped = 0
    for name in (*FILES, SUMS, SIGNATURE):
        path, whole = stored / name, (stored / name).read_bytes()
        for position in sorted({0, len(whole) // 3, len(whole) // 2, len(whole) - 2}):
            for bit in (1, 128):
                damaged = bytearray(whole)
                damaged[position] ^= bit
                path.write_bytes(damaged)
                with pytest.raises(PulmoError):
                    registry.fetch(ref)
                flipped += 1
        path.write_bytes(whole)
    registry.fetch(ref)
    assert flipped >= 60
