import re
from html.parser import HTMLParser

from fastapi.testclient import TestClient

from pulmo.serving import document


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.targets += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_loads_nothing_and_runs_nothing(client: TestClient) -> None:
    answer = client.get("/docs")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Security-Policy"] == document.POLICY
    assert "script" not in document.POLICY
    page = Links()
    page.feed(answer.text)
    assert not page.tags & {"script", "link", "img", "iframe", "form"}
    assert page.targets == ["openapi.json"]
    assert answer.text.count("<style>") == 1


def test_the_page_shows_every_route(client: TestClient) -> None:
    page = client.get("/docs").text
    told = client.get("/openapi.json").json()
    for path, operations in told["paths"].items():
        for method in operations:
            assert f"<code>{method.upper()} {path}</code>" in page
    keyed = sum(bool(one.get("security")) for ops in told["paths"].values() for one in ops.values())
    assert len(re.findall(r'</code> <span class="key">', page)) == keyed > 5


def test_nothing_that_a_document_says_becomes_markup() -> None:
    evil = "<script>alert(1)</script>"
    told = {
        "info": {"title": evil, "version": evil, "description": evil},
        "paths": {
            f"/{evil}": {
                "get": {
                    "summary": evil,
                    "parameters": [{"in": "query", "name": evil, "description": evil}],
                    "requestBody": {"content": {evil: {}}},
                    "responses": {"200": {"description": evil, "content": {evil: {}}}},
                }
            }
        },
        "components": {"schemas": {evil: {"title": evil}}},
    }
    assert "<script" not in document.page(told)
