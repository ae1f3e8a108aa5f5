"""Who may call what: keys on both databases, scopes, and how long a key is remembered."""

from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from app.core.database import Database
from app.core.security import NewKey, make_key
from app.http.auth import KNOWN_KEYS, Caller, KnownKeys, permits_of, require
from app.services.keys import create_key, revoke_key
from tests.http.edge import edge_client, make_edge


def bearer(key: NewKey) -> dict[str, str]:
    return {"authorization": f"Bearer {key.text}"}


def check(reply: httpx.Response, status: int, code: str) -> None:
    assert (reply.status_code, reply.json()["code"]) == (status, code)
    assert ("www-authenticate" in reply.headers) == (status == 401)


@pytest.mark.anyio
async def test_key_allows_what_its_scopes_name(database: Database) -> None:
    key = await database.write(create_key, "school", ["learners:read"], 1)
    admin = await database.write(create_key, "college", ["admin"], 1)
    async with edge_client(make_edge(database)) as client:
        own = (await client.get("/v1/courses/c", headers=bearer(key))).json()
        other = (await client.get("/v1/courses/c", headers=bearer(admin))).json()
        assert own["key"] == key.id
        assert own["tenant"] != other["tenant"]
        refused = await client.put("/v1/courses/c", headers=bearer(key), json={"answers": []})
        check(refused, 403, "missing_scope")
        assert "catalogue:write" in refused.json()["detail"]
        allowed = await client.put("/v1/courses/c", headers=bearer(admin), json={"answers": []})
        assert allowed.status_code == 200


@pytest.mark.anyio
async def test_request_without_a_valid_key_is_refused_before_anything_else(database: Database) -> None:
    good = await database.write(create_key, "school", ["admin"], 1)
    wrong = [
        "", "Bearer", "Bearer ", "Bearer x", f"Basic {good.text}", good.text, f"Bearer {good.text[:-1]}",
        f"Bearer {make_key(1).text}", f"Bearer {make_key(999).text}", f"Bearer {good.text} {good.text}",
        "Bearer \xe9", f"Bearer {good.text * 50}",
    ]  # fmt: skip
    async with edge_client(make_edge(database)) as client:
        check(await client.get("/v1/courses/c"), 401, "unauthenticated")
        for text in wrong:
            headers: Any = {"authorization": text.encode("latin-1")}
            check(await client.get("/v1/courses/c", headers=headers), 401, "unauthenticated")
            reply = await client.put("/v1/courses/c", headers=headers, content=b"[NaN" * 5000)
            check(reply, 401, "unauthenticated")
        reply = await client.get("/v1/courses/c", headers={"authorization": f"bearer  {good.text} "})
        assert reply.status_code == 200


@pytest.mark.anyio
async def test_revoked_key_ends_within_five_seconds(database: Database) -> None:
    key = await database.write(create_key, "school", ["admin"], 1)
    now = 100.0
    app = make_edge(database)
    app.state.known_keys = KnownKeys(lambda: now)
    async with edge_client(app) as client:
        assert (await client.get("/v1/courses/c", headers=bearer(key))).status_code == 200
        await database.write(revoke_key, "school", key.id, 2)
        now = 104.9
        assert (await client.get("/v1/courses/c", headers=bearer(key))).status_code == 200
        now = 105.0
        check(await client.get("/v1/courses/c", headers=bearer(key)), 401, "unauthenticated")


def test_number_of_remembered_keys_is_bounded() -> None:
    known = KnownKeys(lambda: 0.0)
    for number in range(KNOWN_KEYS + 10):
        known.put(b"%d" % number, Caller(number, "k", frozenset()), 0.0)
    kept = [number for number in range(KNOWN_KEYS + 10) if known.get(b"%d" % number)]
    assert kept == list(range(10, KNOWN_KEYS + 10))


def test_route_reports_its_scope() -> None:
    scopes = {
        (route.path, method): [permit.scope for permit in permits_of(route.dependant)]
        for route in iter_route_contexts(make_edge().routes)
        if hasattr(route, "dependant")
        for method in route.methods or ()
    }
    assert scopes["/v1/courses/{course}", "GET"] == ["learners:read"]
    assert scopes["/v1/courses/{course}", "PUT"] == ["catalogue:write"]
    assert scopes["/livez", "GET"] == []


def test_openapi_document_asks_for_a_bearer_key() -> None:
    document = make_edge().openapi()
    scheme = document["components"]["securitySchemes"]["key"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert document["paths"]["/v1/courses/{course}"]["put"]["security"] == [{"key": []}]
    assert "security" not in document["paths"]["/v1/echo"]["post"]


def test_scope_of_a_route_must_exist() -> None:
    with pytest.raises(ValueError, match="unknown scope"):
        require("learners:write")
