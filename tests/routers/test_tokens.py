"""Client credentials on both databases: given as RFC 6749 says, opening what the key opens, gone with it."""

import base64
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from sqlalchemy import Connection, func, select

from app.core.security import make_token, parse_token
from app.core.times import now
from app.http import auth
from app.http.auth import KnownKeys
from app.models import AccessToken
from app.routers import tokens
from app.services.keys import create_key, issue_token, revoke_key
from tests.client import CATALOGUE, client_of, make_key, served

pytestmark = pytest.mark.anyio

URL = "http://service/v1/oauth/token"
SKILLS = "courses/arithmetic/skills"
BOTH = ["learners:read", "responses:write"]


class Desk:
    """A service with one key, and somebody who shows nothing."""

    def __init__(self, app: Any, client: httpx.AsyncClient, key: Any) -> None:
        self.app, self.client, self.key = app, client, key
        self.credentials = {"client_id": key.id, "client_secret": key.text}

    async def ask(self, form: dict[str, str] | None = None, **headers: str) -> httpx.Response:
        """Ask with the credentials in the form."""
        given = {"grant_type": "client_credentials", **self.credentials, **(form or {})}
        return await self.client.post(
            URL, data={name: value for name, value in given.items() if value}, headers=headers
        )

    async def get(self, token: str, path: str = SKILLS) -> int:
        return (await self.client.get(path, headers={"authorization": f"Bearer {token}"})).status_code


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[Desk]:
    async with served(database_url) as app, client_of(app) as client:
        admin = await make_key(app.state.database)
        async with client_of(app, admin) as owner:
            assert (await owner.put("courses/arithmetic/catalogue", json=CATALOGUE)).status_code == 200
        yield Desk(app, client, await app.state.database.write(create_key, "school", BOTH, now()))


def check_token(reply: httpx.Response, scope: str) -> str:
    told = reply.json()
    assert reply.status_code == 200, reply.text
    assert {**told, "access_token": ""} == {
        "access_token": "", "token_type": "Bearer", "expires_in": 3600, "scope": scope
    }  # fmt: skip
    assert (reply.headers["cache-control"], reply.headers["pragma"]) == ("no-store", "no-cache")
    assert reply.headers["content-type"] == "application/json"
    assert parse_token(told["access_token"])
    return str(told["access_token"])


def check_refusal(reply: httpx.Response, status: int, error: str) -> None:
    assert (reply.status_code, reply.json()["error"]) == (status, error), reply.text
    assert reply.json().keys() == {"error", "error_description"}
    assert reply.json()["error_description"].isascii()
    assert reply.headers["cache-control"] == "no-store"
    assert ("www-authenticate" in reply.headers) == (status == 401)


def basic(client_id: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{quote(client_id)}:{quote(secret)}".encode()).decode()


async def test_token_is_issued_for_credentials_in_the_form_or_in_the_header(desk: Desk) -> None:
    posted = check_token(
        await desk.ask({"scope": "", "audience": "https://cat.example.org"}), "learners:read responses:write"
    )
    header = basic(desk.key.id, desk.key.text)
    form = {"grant_type": "client_credentials"}
    shown = check_token(
        await desk.client.post(URL, data=form, headers={"authorization": header}), "learners:read responses:write"
    )
    assert posted != shown
    assert [await desk.get(token) for token in (posted, shown, desk.key.text)] == [200, 200, 200]


async def test_token_has_the_scopes_of_its_key_or_fewer(desk: Desk) -> None:
    few = check_token(await desk.ask({"scope": "responses:write"}), "responses:write")
    assert await desk.get(few) == 403
    elsewhere = "https://purl.example.org/spec/cat/v1p0/scope/results.create"
    check_token(await desk.ask({"scope": elsewhere}), "learners:read responses:write")
    check_token(await desk.ask({"scope": f"{elsewhere} learners:read"}), "learners:read")
    for scope in ("admin", "catalogue:write", "nonsense", "learners:read admin"):
        check_refusal(await desk.ask({"scope": scope}), 400, "invalid_scope")


async def test_token_of_an_admin_key_may_have_any_scope(desk: Desk) -> None:
    admin = await desk.app.state.database.write(create_key, "school", ["admin"], now())
    desk.credentials = {"client_id": admin.id, "client_secret": admin.text}
    check_token(await desk.ask(), "admin")
    check_token(await desk.ask({"scope": "learners:read"}), "learners:read")


async def test_token_is_refused_to_invalid_clients(desk: Desk) -> None:
    other = await desk.app.state.database.write(create_key, "college", ["admin"], now())
    for wrong in (
        {"client_secret": desk.key.text[:-1]},
        {"client_id": other.id},
        {"client_secret": other.text},
        {"client_id": ""},
        {"client_secret": ""},
        {"client_id": "\u00fc\0"},
        {"client_secret": make_token(1)[0]},
    ):
        check_refusal(await desk.ask(wrong), 401, "invalid_client")
    form = {"grant_type": "client_credentials"}
    for header in ("Basic", "Basic !", "Basic /w==", f"Bearer {desk.key.text}", basic(desk.key.id, "x"), basic("", "")):
        reply = await desk.client.post(URL, data=form, headers={"authorization": header})
        check_refusal(reply, 401, "invalid_client")


async def test_token_is_refused_to_invalid_requests(desk: Desk) -> None:
    check_refusal(await desk.ask({"grant_type": ""}), 400, "invalid_request")
    check_refusal(await desk.ask({"grant_type": "password"}), 400, "unsupported_grant_type")
    check_refusal(await desk.ask(authorization=basic(desk.key.id, desk.key.text)), 400, "invalid_request")
    for content, media_type in [
        (b"{}", "application/json"), (b"", "text/plain"), (b"\xff", tokens.FORM), (b"a=%ff", tokens.FORM),
        (b"grant_type=client_credentials&grant_type=client_credentials", tokens.FORM), (b"a=1&" * 60, tokens.FORM),
    ]:  # fmt: skip
        reply = await desk.client.post(URL, content=content, headers={"content-type": media_type})
        check_refusal(reply, 400, "invalid_request")
    large = await desk.client.post(URL, content=b"a" * 20_000, headers={"content-type": tokens.FORM})
    check_refusal(large, 413, "invalid_request")
    assert (await desk.client.get(URL)).status_code == 405


async def test_token_ends_within_five_seconds_of_its_key(desk: Desk) -> None:
    moment = 100.0
    desk.app.state.known_keys = KnownKeys(lambda: moment)
    token = check_token(await desk.ask(), "learners:read responses:write")
    assert await desk.get(token) == 200
    await desk.app.state.database.write(revoke_key, "school", desk.key.id, now())
    moment = 104.9
    assert await desk.get(token) == 200
    moment = 105.0
    assert await desk.get(token) == 401
    check_refusal(await desk.ask(), 401, "invalid_client")


async def test_token_is_valid_for_an_hour_and_no_longer(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    database, begun, elapsed = desk.app.state.database, now(), 0.0
    desk.app.state.known_keys = KnownKeys(lambda: elapsed)
    monkeypatch.setattr(auth, "now", lambda: begun + round(elapsed * 1_000_000))
    token = await database.write(issue_token, 1, desk.key.id, BOTH, begun)
    for elapsed, status in ((0.0, 200), (3598.0, 200), (3599.9, 200), (3600.0, 401), (3604.0, 401)):
        assert await desk.get(token) == status, elapsed
    assert await database.read(count_tokens) == 1
    await database.write(issue_token, 1, desk.key.id, BOTH, begun + 3_600_000_000)
    assert await database.read(count_tokens) == 1


def count_tokens(db: Connection) -> int:
    return db.scalar(select(func.count()).select_from(AccessToken)) or 0


async def test_token_is_stored_as_a_hash_only(desk: Desk) -> None:
    token = check_token(await desk.ask(), "learners:read responses:write")
    [row] = await desk.app.state.database.read(lambda db: list(db.execute(select(AccessToken.__table__))))
    assert token not in repr(row)
    assert (row.tenant_id, row.hash) == parse_token(token)
    altered = token[:-1] + ("A" if token[-1] != "A" else "B")
    assert [await desk.get(text) for text in (altered, token.replace("prt_1_", "prt_2_"), make_token(1)[0])] == [
        401
    ] * 3


async def test_token_failures_count_against_the_address(database_url: str) -> None:
    async with served(database_url, failed_keys_per_minute=2, requests_per_minute=3) as app, client_of(app) as client:
        desk = Desk(app, client, await app.state.database.write(create_key, "school", ["admin"], now()))
        refused = [await desk.ask({"client_id": "key-0"}) for _ in range(8)]
        assert {reply.status_code for reply in refused} == {401, 429}
        check_refusal(refused[-1], 429, "temporarily_unavailable")
        assert int(refused[-1].headers["retry-after"]) > 0
        good = [await desk.ask() for _ in range(9)]
        assert good[0].status_code == 200
        check_refusal(good[-1], 429, "temporarily_unavailable")
