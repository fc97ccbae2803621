"""The pages in a real browser, over a real API and a real X-ray model, as people use them.

Chromium is Debian's (`chromium`). With PULMO_SCREENSHOTS=FOLDER pictures of every page, wide and
narrow, light and dark, are kept there. A model is trained once (some minutes).
"""

import base64
import csv
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from pulmo.config.settings import Settings
from pulmo.wiring import open_registry

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium")
MODEL = "pneumonia"
WIDE, NARROW = (1280, 900), (390, 844)
PHONE = "Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 Chrome/140.0 Mobile Safari/537.36"
PATIENCE = 120_000  # ms; a busy machine is no failure

Command = Callable[..., "subprocess.CompletedProcess[str]"]

expect.set_options(timeout=PATIENCE)


@dataclass
class Api:
    """A server that can be killed and begun anew at the same address, and its keys."""

    home: Path
    port: int
    predict: str = ""
    admin: str = ""
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = main(
            self.home, "serve", "--admin", "--model", f"{MODEL}:production", "--port", self.port
        )
        reached(f"{self.url}/readyz", self.process)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def answer(self, encoded: bytes) -> httpx.Response:
        dicom = encoded[128:132] == b"DICM"
        head = {"Content-Type": "application/dicom" if dicom else "image/*"}
        head["Authorization"] = f"Bearer {self.predict}"
        return httpx.post(f"{self.url}/predict", content=encoded, headers=head, timeout=60)


def main(folder: Path, *words: object) -> "subprocess.Popen[bytes]":
    command = [sys.executable, str(ROOT / "main.py"), *map(str, words)]
    return subprocess.Popen(command, cwd=folder, env={**os.environ, "PULMO_RATE_LIMIT": "off"})


def reached(url: str, process: "subprocess.Popen[bytes]") -> None:
    while True:
        assert process.poll() is None, f"{url} is not served"
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.HTTPError:
            threading.Event().wait(0.1)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def home(xray_home: Path, pulmo: Command) -> Path:
    """v0 of the model is in production, v1 is registered and nothing more."""
    pulmo(xray_home, "registry", "stage", "run", timeout=1800)
    told = pulmo(xray_home, "recalibrate", "run", "decision.refer=0.15", "--json", timeout=1800)
    registry = open_registry(
        Settings(
            registry_url=f"sqlite:///{xray_home / 'models/registry.db'}",
            files_url=str(xray_home / "models/bundles"),
        )
    )
    registry.register(xray_home / json.loads(told.stdout)["run"] / "bundle", actor="a person")
    assert len(registry.versions(MODEL)) == 2
    return xray_home


@pytest.fixture(scope="module")
def api(home: Path, pulmo: Command) -> Iterator[Api]:
    made = {}
    for role in ("predict", "admin"):
        name = "an admin key" if role == "admin" else "a predict key"
        told = pulmo(home, "keys", "create", "--role", role, "--name", name, "--json")
        made[role] = json.loads(told.stdout)["key"]
    served = Api(home, free_port(), **made)
    served.start()
    try:
        yield served
    finally:
        served.kill()


@pytest.fixture(scope="module")
def pages(api: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the pages, in a process of their own."""
    port = free_port()
    process = main(tmp_path_factory.mktemp("ui"), "ui", "--api", api.url, "--port", port)
    try:
        reached(f"http://127.0.0.1:{port}/_stcore/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield opened
        opened.close()


Open = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser, pages: str) -> Iterator[Open]:
    """`visit("registry", NARROW, "dark")`: a page in a session of its own."""
    asked: set[str] = set()

    @contextmanager
    def opened(path: str, size: tuple[int, int], scheme: str) -> Iterator[Page]:
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,
            user_agent=PHONE if size == NARROW else None,
        )
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("request", lambda request: asked.add(urlsplit(request.url).hostname or ""))
        page.goto(f"{pages}/{path}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.get_by_test_id("stBottom")).to_contain_text("no medical device")
        settled(page)
        yield page
        context.close()

    yield opened
    assert asked <= {"127.0.0.1", ""}, asked


@pytest.fixture(scope="module")
def pictures(shared_data: Path) -> dict[str, bytes]:
    """Ten files: six X-rays, one torn, one RGBA, one DICOM, one photograph."""
    files = {}
    for label in ("NORMAL", "PNEUMONIA"):
        for path in sorted((shared_data / "chest_xray/test" / label).iterdir())[:3]:
            files[path.name] = path.read_bytes()
    first = next(iter(files.values()))
    files["torn.jpeg"] = first[: len(first) // 2]
    with Image.open(io.BytesIO(first)) as opened:
        coloured = opened.convert("RGBA")
    coloured.putalpha(
        Image.linear_gradient("L").resize(coloured.size).point(lambda v: 255 - v // 8)
    )
    buffer = io.BytesIO()
    coloured.save(buffer, "PNG")
    files["with alpha.png"] = buffer.getvalue()
    files["test1.dcm"] = (shared_data / "dicom/test1.dcm").read_bytes()
    photograph = min((shared_data / "imagenette160/val/n01440764").iterdir())
    files["=photograph.jpeg"] = photograph.read_bytes()
    assert len(files) == 10
    return files


def drop(page: Page, files: dict[str, bytes]) -> None:
    """Drag files onto the page and let go."""
    told = [[name, base64.b64encode(data).decode("ascii")] for name, data in files.items()]
    carried = page.evaluate_handle(
        """files => {
            const carried = new DataTransfer();
            for (const [name, text] of files) {
                const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
                carried.items.add(new File([bytes], name));
            }
            return carried;
        }""",
        told,
    )
    place = page.get_by_test_id("stFileUploaderDropzone")
    place.dispatch_event("drop", {"dataTransfer": carried})


def give_key(page: Page, key: str) -> None:
    """Type the key where the page has its field, opening the sidebar of a phone."""
    field = page.get_by_label("Key", exact=True)
    narrow = (page.viewport_size or {})["width"] < 768
    if narrow:
        page.get_by_test_id("stExpandSidebarButton").click()
    field.fill(key)
    field.press("Enter")
    if narrow:
        page.get_by_test_id("stSidebarCollapseButton").get_by_role("button").click()


def cards(page: Page) -> Locator:
    return page.locator('[class*="st-key-card-"]')


def said(locator: Locator) -> str:
    return " ".join(locator.inner_text().split())


def image_of(page: Page, card: Locator) -> np.ndarray[Any, Any]:
    source = card.locator("img").first.get_attribute("src") or ""
    answer = page.request.get(httpx.URL(page.url).join(source).__str__())
    with Image.open(io.BytesIO(answer.body())) as opened:
        return np.asarray(opened.convert("RGB")).astype(int)


def settled(page: Page) -> None:
    """Wait until the page has been made."""
    expect(page.get_by_test_id("stStatusWidget")).to_have_count(0)


def test_ten_pictures_are_dropped_read_looked_into_and_taken_home(
    visit: Open, api: Api, pictures: dict[str, bytes], tell: Callable[[str], None], tmp_path: Path
) -> None:
    expected = {name: api.answer(data) for name, data in pictures.items()}
    with visit("", WIDE, "light") as page:
        drop(page, pictures)
        expect(page.get_by_text("The server asks for a key.")).to_be_visible()
        expect(cards(page)).to_have_count(0)
        give_key(page, api.predict)
        expect(cards(page)).to_have_count(10)
        settled(page)
        counts: dict[str, int] = {}
        for name, answer in expected.items():
            card = cards(page).filter(has=page.get_by_text(name, exact=True))
            last = f"{MODEL}:v0 ·" if answer.status_code == 200 else answer.json()["detail"][1:]
            expect(card).to_contain_text(last)
            text = said(card)
            verdict = read(text)
            counts[verdict] = counts.get(verdict, 0) + 1
            if answer.status_code != 200:
                assert verdict == "unreadable", text
                assert answer.json()["detail"][1:] in text
                continue
            told = answer.json()
            assert verdict == told["decision"], text
            for label, value in told["probabilities"].items():
                shown = re.search(rf"{label} ([0-9.]+) %", text)
                assert shown is not None
                assert abs(float(shown[1]) / 100 - value) < 1e-3
            assert all(reason[1:] in text for reason in told["reasons"])
            assert told["prediction"] is None or told["prediction"] in text
        assert "No diagnosis" in said(cards(page).filter(has_text="=photograph.jpeg"))
        assert said(cards(page).filter(has_text="torn.jpeg")).count("cannot be read") == 1
        _slide(page)
        rows = _download(page, tmp_path)
        assert [row["file"] for row in rows] == [n.replace("=", "'=") for n in pictures]
        for row, answer in zip(rows, expected.values(), strict=True):
            decided = answer.json()["decision"] if answer.status_code == 200 else ""
            assert row["decision"] == decided
            assert bool(row["problem"]) == (answer.status_code != 200)
    tell(f"10 pictures dropped: {counts}; CSV of {len(rows)} lines")


def read(text: str) -> str:
    """The verdict that a card shows."""
    found = [word for word in ("Accept", "Refer") if re.search(rf"\b{word}\b", text)]
    assert len(found) <= 1, text
    return found[0].lower() if found else "unreadable"


def _slide(page: Page) -> None:
    """The slider of a card, by keyboard: from the map to the bare picture and beyond."""
    card = cards(page).first
    handle = card.get_by_role("slider")
    before, source = image_of(page, card), card.locator("img").first.get_attribute("src")
    handle.focus()
    handle.press("Home")
    expect(card.locator("img").first).not_to_have_attribute("src", source or "")
    expect(handle).to_have_value("0")
    bare = image_of(page, card)
    assert np.ptp(bare, axis=2).max() <= 9  # an X-ray is grey
    assert np.abs(before - bare).max() > 50
    source = card.locator("img").first.get_attribute("src")
    handle.press("End")
    expect(card.locator("img").first).not_to_have_attribute("src", source or "")
    assert np.abs(image_of(page, card) - before).max() > 20


def _download(page: Page, folder: Path) -> list[dict[str, str]]:
    with page.expect_download() as waited:
        page.get_by_role("button", name="Download CSV").click()
    waited.value.save_as(folder / "answers.csv")
    text = (folder / "answers.csv").read_text("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_role("combobox", name=label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


def move(page: Page, verb: str, version: str, label: str) -> None:
    page.get_by_role("radio", name=verb, exact=True).click()
    expect(page.get_by_role("button", name=re.compile(f"^{verb} {MODEL}"))).to_be_visible()
    if version:
        choose(page, "Version", version)
    page.get_by_role("button", name=label, exact=True).click()


def test_aliases_are_moved_with_an_admin_key_and_not_without(
    visit: Open, api: Api, home: Path, pulmo: Command, tell: Callable[[str], None]
) -> None:
    def pointed(alias: str) -> str:
        told = pulmo(home, "registry", "list", "--json").stdout
        return f"v{json.loads(told)[0]['aliases'].get(alias)}"

    with visit("registry", WIDE, "light") as page:
        expect(page.get_by_text("The server asks for a key.")).to_be_visible()
        give_key(page, api.predict)
        expect(page.get_by_role("heading", name="Move an alias")).to_be_visible()
        move(page, "Stage", "v1", f"Stage {MODEL} v1")
        expect(page.get_by_text("The server refuses this.")).to_be_visible()
        assert pointed("staging") == "v0"
        field = page.get_by_label("Admin key", exact=True)
        field.fill(api.admin)
        field.press("Enter")
        settled(page)
        move(page, "Stage", "v1", f"Stage {MODEL} v1")
        expect(
            page.get_by_text(re.compile(r"^Done: staging: v0 → v1, by an admin key"))
        ).to_be_visible()
        assert pointed("staging") == "v1"
        move(page, "Promote", "v1", f"Promote {MODEL} v1")
        expect(page.get_by_text("Refused, and nothing was changed.")).to_be_visible()
        expect(page.get_by_text("has not been tested")).to_be_visible()
        pulmo(home, "test-staged", f"{MODEL}:v1", timeout=1800)
        page.get_by_role("button", name=f"Promote {MODEL} v1", exact=True).click()
        expect(page.get_by_text(re.compile(r"^Done: production: v0 → v1"))).to_be_visible()
        assert pointed("production") == "v1"
        expect(page.get_by_test_id("stSidebar").get_by_text(f"{MODEL}:v1")).to_be_visible()
        line = page.get_by_text(f"registry rollback {MODEL} --reason")
        move(page, "Roll back", "", f"Roll back {MODEL}")
        expect(page.get_by_text(re.compile(r"^Done: production: v1 → v0"))).to_be_visible()
        expect(line).to_be_visible()
        assert pointed("production") == "v0"
        assert api.admin not in said(page.locator("body"))
    tell(
        "refused without an admin key; staged, refused untested, promoted and rolled back with one"
    )


def test_a_page_outlives_the_api(
    visit: Open, api: Api, pictures: dict[str, bytes], tell: Callable[[str], None]
) -> None:
    one, other = list(pictures)[:2]
    with visit("", WIDE, "light") as page:
        give_key(page, api.predict)
        settled(page)
        drop(page, {one: pictures[one]})
        expect(cards(page)).to_have_count(1)
        api.kill()
        try:
            expect(page.get_by_text("The API is away.", exact=False).first).to_be_visible()
            expect(cards(page)).to_have_count(1)
            drop(page, {other: pictures[other]})
            expect(page.get_by_text("1 picture waits for an answer.")).to_be_visible()
            shoot(page, "away", WIDE, "light")
        finally:
            api.start()
        expect(cards(page)).to_have_count(2)
        expect(page.get_by_text("1 picture waits for an answer.")).to_have_count(0)
        expect(page.get_by_test_id("stSidebar").get_by_text("The API answers")).to_be_visible()
    tell("the API was killed and brought back: the page said so and went on by itself")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_every_page_fits(
    visit: Open, api: Api, pictures: dict[str, bytes], size: tuple[int, int], scheme: str
) -> None:
    with visit("", size, scheme) as page:
        shoot(page, "empty", size, scheme)
        give_key(page, api.predict)
        drop(page, pictures)
        expect(cards(page)).to_have_count(10)
        settled(page)
        assert scheme == page.evaluate(BRIGHTNESS)
        shoot(page, "predict", size, scheme)
        go(page, "Model", size)
        expect(page.get_by_role("heading", name="Reliability")).to_be_visible()
        expect(page.locator("canvas, .marks").first).to_be_visible()
        shoot(page, "model", size, scheme)
        page.get_by_text("Model card", exact=True).click()
        page.get_by_text("Lineage", exact=True).click()
        expect(page.get_by_text("Limits", exact=True)).to_be_visible()
        shoot(page, "card", size, scheme)
        go(page, "Registry", size)
        expect(page.get_by_role("heading", name="History")).to_be_visible()
        settled(page)
        shoot(page, "registry", size, scheme)


BRIGHTNESS = """() => {
    const app = document.querySelector('[data-testid=stApp]');
    const [red] = getComputedStyle(app).backgroundColor.match(/\\d+/g);
    return Number(red) > 127 ? 'light' : 'dark';
}"""
OVERFLOW = """() => {
    const main = document.querySelector('[data-testid=stMain]');
    return Math.max(main.scrollWidth - main.clientWidth,
        document.documentElement.scrollWidth - document.documentElement.clientWidth);
}"""
DRAWN = "() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 300)))"
HEIGHT = "() => document.querySelector('[data-testid=stMain]').scrollHeight"


def go(page: Page, name: str, size: tuple[int, int]) -> None:
    if size == NARROW:
        page.get_by_test_id("stExpandSidebarButton").click()
    page.get_by_test_id("stSidebarNav").get_by_role("link", name=name).click()
    expect(page.get_by_role("heading", level=1, name=name)).to_be_visible()
    if size == NARROW:  # a phone's sidebar goes away by itself
        expect(page.get_by_test_id("stExpandSidebarButton")).to_be_visible()


def shoot(page: Page, name: str, size: tuple[int, int], scheme: str) -> None:
    """A picture of the whole page; nothing may be wider than the screen."""
    settled(page)
    page.evaluate("document.fonts.ready")
    assert page.evaluate(OVERFLOW) <= 0, name
    expect(page.get_by_text("Pulmo is no medical device").first).to_be_in_viewport()
    folder = os.environ.get("PULMO_SCREENSHOTS")
    if not folder:
        return
    for whole in (False, True):
        height = int(page.evaluate(HEIGHT)) if whole else size[1]
        page.set_viewport_size({"width": size[0], "height": max(height, size[1])})
        page.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 300)))"
        )
        with Image.open(io.BytesIO(page.screenshot())) as opened:
            small = opened.convert("RGB").quantize(128, Image.Quantize.MEDIANCUT)
        stem = f"{name}-{size[0]}-{scheme}{'-whole' if whole else ''}"
        small.save(Path(folder) / f"{stem}.png", optimize=True)
    page.set_viewport_size({"width": size[0], "height": size[1]})


def test_a_new_user_needs_three_commands(
    browser: Browser, pulmo: Command, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    """As the README says; the first one is what this very environment was made by."""
    lines = re.findall(r"^\$ (.+)$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)[:3]
    assert lines[0] == "uv sync --locked"
    assert [line.removeprefix("uv run main.py ") for line in lines[1:]] == ["quickstart", "ui"]
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 8000)) == 0:
            pytest.skip("somebody else serves at port 8000")
    pulmo(tmp_path, "quickstart", timeout=1800)
    picture = next(path for path in sorted((tmp_path / "data").rglob("*.png")))
    port = free_port()
    process = main(tmp_path, "ui", "--port", port)
    try:
        reached(f"http://127.0.0.1:{port}/_stcore/health", process)
        context = browser.new_context()
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}")
        drop(page, {picture.name: picture.read_bytes()})
        expect(cards(page)).to_have_count(1)
        verdict = read(said(cards(page).first))
        assert verdict in ("accept", "refer")
        context.close()
    finally:
        process.terminate()
        process.wait()
    tell(f"three commands to a prediction in the browser: {verdict}")
