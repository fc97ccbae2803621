"""What serving costs, as ratios in one run: `python -m benchmarks.serving --model BUNDLE …`.

Every measurement stores its rows in `benchmarks/results/serving.json`; `benchmarks.page` makes
`docs/performance.md` of them.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.arms import (
    ROOT,
    SERVER_CORE,
    Client,
    Loop,
    Server,
    rounds,
    together,
)
from benchmarks.ratios import Row, bound, percentile, ratio
from pulmo.core.bundle import Bundle, model_digest, verify, write
from pulmo.inference.openvino import installed

RESULTS = ROOT / "benchmarks/results/serving.json"
LARGEST_GAP, LARGEST_SCALED_GAP = 1e-4, 0.02
LARGEST_INT8_GAP = 0.1  # of a model in whole numbers, whose export shows that it decides alike
OVERLOAD = 10
ENGINES = ("onnxruntime", "openvino") if installed() else ("onnxruntime",)
PICTURES = 64


@dataclass(frozen=True)
class Plan:
    """What is measured, on what, for how long."""

    bundle: Path
    native: list[Path]  # pictures of about the size that the graph takes
    large: list[Path]
    count: int
    seconds: float
    int8: Path | None = None  # the bundle's twin in whole numbers


def s1(plan: Plan, client: Client) -> list[Row]:
    """Served ÷ in the process, with each engine that is installed."""
    rows = []
    for engine in ENGINES:
        with _with(engine):
            rows += _served(plan, client, engine)
    return rows


def _served(plan: Plan, client: Client, engine: str) -> list[Row]:
    with _ended() as end:
        server = end(pulmo(client, plan.bundle, plan.native))
        loops = [end(Loop("answer", plan.bundle, plan.native)) for _ in range(2)]
        named = {kind: server.by(kind) for kind in ("raw", "multipart", "base64")}
        _agree(server, loops[0].answers(), plan.native, LARGEST_GAP)
        arms = {"loop": loops[0], "again": loops[1], **named}
        told = [
            {**one, "loops": together([one["loop"], one["again"]])}
            for one in rounds(arms, plan.count, plan.seconds)
        ]
    limits = {"raw": 0.97, "multipart": 0.94, "base64": 0.90}
    same = f"in the process ÷ the same again, {engine}"
    served = [
        ratio("S1", f"served, {kind} ÷ in the process, {engine}", told, kind, "loops", limit)
        for kind, limit in limits.items()
    ]
    return [ratio("A/A", same, told, "loop", "again"), *served]


def s2(plan: Plan, client: Client) -> list[Row]:
    """Latency under Poisson load, from the time a request was meant to be sent."""
    shares: dict[float, list[float]] = {0.5: [], 0.7: []}
    failures = 0
    with _ended() as end:
        server = end(pulmo(client, plan.bundle, plan.native))
        server.window(1.0)
        for number in range(1, plan.count + 1):
            peak = server.window(plan.seconds / 2).rate
            median = statistics.median(server.at_rate(plan.seconds / 2, peak / 20, number).seconds)
            for share, found in shares.items():
                load = server.at_rate(plan.seconds, share * peak, number)
                failures += sum((load.statuses or {}).values()) - load.done
                found.append(percentile(load.seconds, 0.99) / median)
            told = {share: found[-1] for share, found in shares.items()}
            print(f"  round {number}: p99 ÷ idle {told}, peak {peak:.1f}", file=sys.stderr)
    return [
        bound("S2", "p99 ÷ idle median at 50 % of peak", shares[0.5], 5, "less"),
        bound("S2", "p99 ÷ idle median at 70 % of peak", shares[0.7], 9, "less"),
        Row("S2", "requests not answered", failures, failures, failures, 0, "less", ""),
    ]


AS_TAUGHT = ("fastapi", "litserve", "torch")
PEERS = {
    "fastapi": ("FastAPI + ONNX Runtime", "multipart", 1.5, 1.2),
    "litserve": ("LitServe + ONNX Runtime", "multipart", 1.6, 1.3),
    "torch": ("FastAPI + PyTorch", "multipart", 4, 4),
    "fastapi-tuned": ("tuned FastAPI, our engine and decoder", "raw", 1.0, 1.0),
    "fastapi-whole": ("tuned FastAPI, our engine and decoder, the same answer", "raw", 1.0, 1.0),
    "litserve-tuned": ("tuned LitServe, our engine and decoder", "multipart", 1.0, 1.0),
}
INT8_NATIVE = {"fastapi": 1.5, "litserve": 1.6}


def s3(plan: Plan, client: Client) -> list[Row]:
    """Against peers on pictures of both sizes."""
    return _against(plan, client, PEERS, "Pulmo")


def s3_openvino(plan: Plan, client: Client) -> list[Row]:
    """By OpenVINO, against the peers that do not use our engine."""
    with _with("openvino"):
        return _against(plan, client, {k: PEERS[k] for k in AS_TAUGHT}, "Pulmo by OpenVINO")


def s3_int8(plan: Plan, client: Client) -> list[Row]:
    """The twin in whole numbers, against peers as they are taught with the float model."""
    peers = {k: (*PEERS[k][:3], INT8_NATIVE.get(k, PEERS[k][3])) for k in AS_TAUGHT}
    return _against(plan, client, peers, "Pulmo, int8", plan.int8)


def _against(
    plan: Plan,
    client: Client,
    peers: Mapping[str, tuple[str, str, float, float]],
    ours: str,
    bundle: Path | None = None,
) -> list[Row]:
    rows = []
    for index, (size, pictures) in enumerate((("large", plan.large), ("native", plan.native))):
        gap = LARGEST_SCALED_GAP if size == "large" else LARGEST_GAP
        gap = gap if bundle is None else LARGEST_INT8_GAP
        with _ended() as end:
            own = end(pulmo(client, bundle or plan.bundle, pictures))
            arms = {transport: own.by(transport) for _, transport, *_ in peers.values()}
            expected = [_named(one) for one in own.answers(pictures)]
            for kind, (_, transport, *_) in peers.items():
                arms[kind] = end(peer(client, kind, plan.bundle, pictures, transport))
                _agree(arms[kind], expected, pictures, gap)
            if "fastapi-whole" in peers:
                _same_answers(arms["fastapi-whole"], own, pictures)
            told = list(rounds(arms, plan.count, plan.seconds))
        for kind, (name, transport, *limits) in peers.items():
            what = f"{ours} ÷ {name}, {size} pictures, {transport}"
            rows.append(ratio("S3", what, told, transport, kind, limits[index]))
    return rows


def s4(plan: Plan, client: Client) -> list[Row]:
    """What embedding and saliency cost, and, apart, what drawing costs."""
    with tempfile.TemporaryDirectory() as folder, _ended() as end:
        less = without_extras(verify(plan.bundle), Path(folder) / "bundle").path
        arms = {
            "with": end(pulmo(client, plan.bundle, plan.native)),
            "without": end(pulmo(client, less, plan.native)),
            "answer": end(Loop("answer", plan.bundle, plan.native)),
            "explain": end(Loop("explain", plan.bundle, plan.native)),
        }
        told = list(rounds(arms, plan.count, plan.seconds))
    what = "graph with embedding and saliency ÷ without"
    drawn = ratio("S4", "heat maps drawn ÷ not drawn, in the process", told, "explain", "answer")
    return [ratio("S4", what, told, "with", "without", 0.95), drawn]


def s5(plan: Plan, client: Client) -> list[Row]:
    """Goodput while ten times as much is asked as can be done."""
    found, busiest, seen = [], 0.0, set()
    with _ended() as end:
        server = end(pulmo(client, plan.bundle, plan.native))
        server.window(1.0)
        for number in range(plan.count):
            peak = server.window(plan.seconds).rate
            flood = server.at_rate(plan.seconds, OVERLOAD * peak, number)
            found.append(flood.rate / peak)
            busiest, seen = max(busiest, flood.client), seen | set(flood.statuses or {})
            print(f"  round {number + 1}: {found[-1]:.3f} {flood.statuses}", file=sys.stderr)
    row = bound("S5", f"goodput at {OVERLOAD} × overload ÷ peak", found, 0.8, "more")
    row.notes.extend([f"statuses {', '.join(sorted(seen))}", f"the client used {busiest:.0%}"])
    return [row]


def s6(plan: Plan, client: Client) -> list[Row]:
    """The other engine ÷ ONNX Runtime, both in float32, the graph alone."""
    with _ended() as end:
        kinds = ("onnxruntime", "openvino")
        arms = {kind: end(Loop(kind, plan.bundle, plan.native)) for kind in kinds}
        _compare(arms["openvino"].answers(), arms["onnxruntime"].answers(), LARGEST_GAP)
        told = list(rounds(arms, plan.count, plan.seconds))
    what = "openvino ÷ onnxruntime fp32, the graph alone"
    return [ratio("S6", what, told, "openvino", "onnxruntime")]


def s6_int8(plan: Plan, client: Client) -> list[Row]:
    """The twin in whole numbers ÷ the float model, both by ONNX Runtime, the graph alone."""
    assert plan.int8 is not None
    with _ended() as end:
        bundles = {"int8": plan.int8, "float": plan.bundle}
        arms = {k: end(Loop("onnxruntime", bundle, plan.native)) for k, bundle in bundles.items()}
        _compare(arms["int8"].answers(), arms["float"].answers(), LARGEST_INT8_GAP)
        told = list(rounds(arms, plan.count, plan.seconds))
    what = "int8 ÷ fp32, both onnxruntime, the graph alone"
    return [ratio("S6", what, told, "int8", "float", 1.15)]


def t5(plan: Plan, client: Client) -> list[Row]:
    """Scaled decoding."""
    with _ended() as end:
        kinds = ("read", "pillow")
        arms = {kind: end(Loop(kind, plan.bundle, plan.large)) for kind in kinds}
        told = list(rounds(arms, plan.count, plan.seconds))
    what = "decode and resize ÷ Pillow's full decode and resize, large pictures"
    return [ratio("T5", what, told, "read", "pillow", 1.5)]


def c3(plan: Plan, client: Client) -> list[Row]:
    """Size of the environment that serves, and its time to ready."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "venv"
        command = ["uv", "sync", "--locked", "--no-default-groups", "--group", "serve", "--quiet"]
        environment = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(target), "UV_LINK_MODE": "copy"}
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        size = sum(f.stat().st_size for f in target.rglob("*") if f.is_file()) / 1e6
        python = target / "bin/python"
        ready = [python, ROOT / "main.py", "serve", "--model", plan.bundle, "--port", "0"]
        imports = [python, "-c", "import onnxruntime, fastapi; print('listening')"]
        with _with("onnxruntime"):  # the other one is not there
            times = range(plan.count + 1)
            found = [_until_listening(ready) / _until_listening(imports) for _ in times]
    return [
        Row("C3", "installed size", size, size, size, 350, "less", "MB"),
        bound("C3", "time to ready ÷ import of both libraries", found[1:], 3, "less"),
    ]


MEASURES: dict[str, Callable[[Plan, Client], list[Row]]] = {
    "S1": s1,
    "S2": s2,
    "S3": s3,
    **({"S3 OpenVINO": s3_openvino} if installed() else {}),
    "S3 int8": s3_int8,
    "S4": s4,
    "S5": s5,
    "S6": s6,
    "S6 int8": s6_int8,
    "T5": t5,
    "C3": c3,
}


def pulmo(client: Client, bundle: Path, pictures: Sequence[Path]) -> Server:
    """Pulmo's own server."""
    words = [sys.executable, ROOT / "main.py", "serve", "--model", bundle, "--port", "PORT"]
    return Server(client, words, pictures, "raw")


def peer(
    client: Client, kind: str, bundle: Path, pictures: Sequence[Path], transport: str
) -> Server:
    """One of `benchmarks.peers`."""
    words = [sys.executable, "-m", "benchmarks.peers", kind, bundle, "PORT"]
    return Server(client, words, pictures, transport)


def without_extras(bundle: Bundle, folder: Path) -> Bundle:
    """The same model whose graph returns neither embedding nor saliency."""
    import onnx
    from onnx.utils import Extractor

    model = onnx.load_from_string(bundle.graph)
    graph = Extractor(model).extract_model(["image"], ["probabilities", "logits"])
    info, said = bundle.info, {"outputs": ("probabilities", "logits"), "outliers": None}
    specification = info.specification.model_copy(update=said)
    data, weights = graph.SerializeToString(), (bundle.path / "weights.safetensors").read_bytes()
    digest = model_digest(data, weights, specification)
    reference = {k: v for k, v in bundle.reference().items() if k != "embeddings"}
    return write(
        folder,
        graph=data,
        weights=weights,
        reference=reference,
        members=bundle.members(),
        info=info.model_copy(update={"specification": specification, "model_digest": digest}),
        card="# Without extras\n",
    )


@contextmanager
def _with(engine: str) -> Iterator[None]:
    """What is started meanwhile takes this engine."""
    chosen = os.environ["PULMO_ENGINE"]
    os.environ["PULMO_ENGINE"] = engine
    try:
        yield
    finally:
        os.environ["PULMO_ENGINE"] = chosen


@contextmanager
def _ended() -> Iterator[Callable[[Server | Loop], Server | Loop]]:
    """What starts an arm and makes sure that it ends."""
    with ExitStack() as stack:

        def end(arm: Server | Loop) -> Server | Loop:
            stack.callback(arm.process.end)
            return arm

        yield end


def _named(answer: dict) -> dict[str, float]:
    return answer.get("probabilities", answer)


def _agree(server: Server, expected: list, pictures: Sequence[Path], gap: float) -> None:
    _compare([_named(one) for one in server.answers(pictures)], expected, gap)


def _same_answers(one: Server, other: Server, pictures: Sequence[Path]) -> None:
    for told, own in zip(one.answers(pictures), other.answers(pictures), strict=True):
        if {**told, "id": own["id"]} != own:
            raise SystemExit("the peer with the same answer gives another one")


def _compare(found: list[dict[str, float]], expected: list, gap: float) -> None:
    for one, other in zip(found, expected, strict=True):
        values = list(other.values()) if isinstance(other, dict) else other
        apart = float(np.abs(np.subtract(list(one.values()), values)).max())
        if apart > gap:
            raise SystemExit(f"the arms disagree by {apart:.2g}: they do not do the same work")


def _until_listening(command: Sequence[object]) -> float:
    begun = time.perf_counter()
    with subprocess.Popen(
        ["taskset", "-c", str(SERVER_CORE), *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "listening" in line:
                took = time.perf_counter() - begun
                process.kill()
                return took
    raise SystemExit("a server did not start")


def machine() -> dict[str, str]:
    """What the figures hold for."""
    text = Path("/proc/cpuinfo").read_text("utf-8") if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    wide = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if flag in flags]
    return {
        "processor": f"{names[0] if names else platform.processor()} ({', '.join(wide)})",
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def store(name: str, rows: Sequence[Row], plan: Plan, path: Path) -> None:
    """Put rows in the place of those that were measured before."""
    known = json.loads(path.read_text("utf-8")) if path.is_file() else {"measured": {}}
    info = verify(plan.bundle).info
    spec = info.specification
    known["machine"] = machine()
    known["measured"][name] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "rounds": plan.count,
        "seconds": None if name == "C3" else plan.seconds,  # starts are whole
        "network": f"{spec.network.architecture} at {spec.input.width}×{spec.input.height}",
        "rows": [row.document() for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", "utf-8")


def pictures(folder: Path, most: int) -> list[Path]:
    """Some of the JPEG files below a folder, evenly spread, in one random order."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    if not found:
        raise SystemExit(f"{folder} holds no JPEG files")
    some = found[:: max(1, len(found) // most)][:most]
    return random.Random(0).sample(some, len(some))


def main() -> None:
    """Measure what is asked for and store it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a bundle's folder")
    parser.add_argument("--pictures", type=Path, required=True, help="JPEG files of native size")
    parser.add_argument("--large", type=Path, required=True, help="JPEG files of full resolution")
    parser.add_argument("--int8", type=Path, help="the bundle that `export --int8` made of it")
    parser.add_argument("--only", help=f"some of: {','.join(MEASURES)}")
    parser.add_argument(
        "--engine", default=ENGINES[0], help="of every arm of ours (see S6): %(default)s"
    )
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--quick", action="store_true", help="one short round: does it run?")
    parser.add_argument("--results", type=Path, default=RESULTS)
    said = parser.parse_args()
    plan = Plan(
        said.model.resolve(),
        pictures(said.pictures.resolve(), PICTURES),
        pictures(said.large.resolve(), PICTURES),
        1 if said.quick else said.rounds,
        0.5 if said.quick else said.seconds,
        said.int8.resolve() if said.int8 else None,
    )
    here = [name for name in MEASURES if plan.int8 or "int8" not in name]
    chosen = said.only.split(",") if said.only else here
    if missing := [name for name in chosen if name not in here]:
        parser.error(
            f"{', '.join(missing)} cannot be measured: give --int8 BUNDLE, or one of {here}"
        )
    client = Client()
    state = tempfile.TemporaryDirectory()
    os.environ["PULMO_LOG_URL"] = f"sqlite:///{state.name}/log.db"
    os.environ["PULMO_ENGINE"] = said.engine  # measured by each arm, the arms could differ
    os.environ["PULMO_KEYS_DIR"] = f"{state.name}/keys"
    try:
        for name in chosen:
            print(f"{name}: {(MEASURES[name].__doc__ or '').strip()}", file=sys.stderr)
            rows = MEASURES[name](plan, client)
            store(name, rows, plan, said.results)
            for row in rows:
                print(f"{row.goal}  {row.what}: {row.value:.3f} [{row.low:.3f}, {row.high:.3f}]")
    finally:
        client.end()
        state.cleanup()


if __name__ == "__main__":
    main()
