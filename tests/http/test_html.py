"""The pages contact nobody, run nothing foreign and escape what they show."""

import re
from dataclasses import dataclass
from html.parser import HTMLParser

import httpx
import pytest

from app.http.problems import classes_by_code
from tests.http.edge import edge_client, make_edge

pytestmark = pytest.mark.anyio


@dataclass
class Demo:
    key: str
    course: str
    curl: str


class Links(HTMLParser):
    """Collects what a page refers to, its ids, and what its policy would forbid."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.forbidden: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self.links += [named[name] for name in ("href", "src") if name in named]
        self.ids += [named["id"]] if "id" in named else []
        self.forbidden += [name for name in named if name == "style" or name.startswith("on")]
        if tag in {"style", "iframe", "form", "base"} or (tag == "script" and "src" not in named):
            self.forbidden.append(tag)


async def fetch(path: str, demo: object = None) -> httpx.Response:
    app = make_edge()
    if demo is not None:
        app.state.demo = demo
    async with edge_client(app) as client:
        reply = await client.get(path)
    assert reply.status_code == 200
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert "unsafe" not in reply.headers["content-security-policy"]
    return reply


@pytest.mark.parametrize("path", ["/", "/docs", "/errors"])
async def test_page_refers_only_to_what_exists_and_is_allowed(path: str) -> None:
    page = await fetch(path)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    found = Links(page.text)
    assert not found.forbidden
    assert found.links
    async with edge_client(make_edge()) as client:
        for link in found.links:
            url = page.url.join(link)
            assert url.host == page.url.host
            assert (await client.get(url)).status_code == 200


async def test_reference_page_opens_swagger_ui_on_our_own_document() -> None:
    script = (await fetch("/docs/start.js")).text
    assert '"url": "openapi.json"' in script
    assert '"validatorUrl": null' in script
    bundle = await fetch("/docs/swagger-ui-bundle.js")
    assert bundle.headers["content-type"].startswith("text/javascript")
    assert len(bundle.content) > 500_000
    assert (await fetch("/docs/swagger-ui.css")).headers["content-type"].startswith("text/css")


async def test_problem_types_link_to_their_entries() -> None:
    found = Links((await fetch("/errors")).text)
    assert sorted(found.ids) == sorted(classes_by_code())


async def test_home_page_shows_the_first_request_of_a_demonstration() -> None:
    assert "<pre>" not in (await fetch("/")).text
    text = (await fetch("/", Demo("prx_1_<k>", "a&b", "curl 'http://x' -d '{\"a\": \"<script>\"}'"))).text
    assert "prx_1_&lt;k&gt;" in text
    assert "a&amp;b" in text
    assert re.search(r"<pre>curl &#x27;http://x&#x27; .*&lt;script&gt;", text)
    assert "<script" not in text
