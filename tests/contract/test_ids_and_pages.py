"""An id is the caller's own string wherever it goes, and a list followed to its end is the whole list once."""

import csv
import io
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest

from app.core.migrate import run_exclusively
from app.core.times import now
from app.files.backup_format import check_backup, replace_atomically
from app.services import catalogue, transfer
from app.services.calibrations import request_calibration
from app.services.catalogue import upsert
from app.services.responses import RecordedResponse, record
from tests.client import app_of, client_of, find_differences, make_key, make_response, served
from tests.contract.course import COURSE, HOUR_US
from tests.contract.replies import check_headers, check_json, check_problem

pytestmark = pytest.mark.anyio

IDS = [
    "a/b", "/", "//", "a/../b", "...", ".a", "a b", "a+b", "a%2Fb", "%", "%2f", "%252F", "a?b=c#d", "ü/ñ", "学习者",
    "😀", "e\u0301", "é", "\u200b", "'; DROP TABLE learner; --", '"', "\\", "<b>", "a:batch",
    "recommendations", "x" * 255, "\ufffd", "\uffff", "\U0010ffff", "-", "null", "0",
]  # fmt: skip
# What an address cannot carry, with the reason; older versions have stored such ids.
UNFIT = {
    "..": "clients remove", ".": "clients remove", " ": "blank", "\t": "blank", " ann": "white space",
    "ann ": "white space", "\u3000ann": "white space", "\ufeffann": "white space", "a\nb": "control", "\x7f": "control",
    "a\x85b": "control",
}  # fmt: skip


@pytest.fixture
async def client(database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with served(database_url) as app, client_of(app, await make_key(app.state.database)) as caller:
        yield caller


async def make_course(client: httpx.AsyncClient, course: str, names: list[str]) -> str:
    """A course with one skill and one item of each name; its address."""
    at = f"courses/{segment(course)}"
    items = [{"id": name, "skills": [name]} for name in names]
    body = {"skills": [{"id": name} for name in names], "items": items}
    check_json(await client.put(f"{at}/catalogue", json=body), 200, course)
    return at


def segment(id_: str) -> str:
    """An id as it stands in a path; dots alone would be taken for folders by every client."""
    return quote(id_, safe="") if id_.strip(".") else id_.replace(".", "%2E")


@pytest.mark.parametrize("course", ["c1", "a/b", "ü 😀%2F"])
async def test_id_is_returned_as_it_was_sent(client: httpx.AsyncClient, course: str) -> None:
    at = await make_course(client, course, IDS)
    for id_ in IDS:
        body = {"id": id_, "learner": id_, "item": id_, "correct": True}
        told = check_json(await client.post(f"{at}/responses", json=body), 201, id_)
        assert [told["response"][name] for name in ("id", "learner", "item")] == [id_] * 3
        assert told["mastery"][0]["skill"] == id_
        known = check_json(await get_raw(client, f"{at}/learners/{segment(id_)}/mastery"), 200, id_)
        assert (known["learner"], known["mastery"]) == (id_, known["mastery"])
        assert [row["responses"] for row in known["mastery"]] == [int(row["skill"] == id_) for row in known["mastery"]]
        cohort = await client.get(f"{at}/mastery", params={"skill": id_})
        assert [row["learner"] for row in check_json(cohort, 200, id_)["data"]] == [id_]
        voided = await post_raw(client, f"{at}/responses/{segment(id_)}/regrade", {"score": 0.5, "reason": "half"})
        assert check_json(voided, 200, id_)["learner"] == id_
    await check_csv(client, at)


async def get_raw(client: httpx.AsyncClient, path: str) -> httpx.Response:
    return await client.send(raw_request(client, "GET", path))


async def post_raw(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> httpx.Response:
    return await client.send(raw_request(client, "POST", path, json=body))


def raw_request(client: httpx.AsyncClient, method: str, path: str, **extra: Any) -> httpx.Request:
    """A request whose path is sent as it is: the client would tidy up dots."""
    built = client.build_request(method, "x", **extra)
    target = b"/v1/" + path.encode("ascii")
    built.url = built.url.copy_with(raw_path=target)
    assert built.url.raw_path == target
    return built


async def check_csv(client: httpx.AsyncClient, at: str) -> None:
    """The table has the same ids, but for the mark before what a spreadsheet could run."""
    reply = await client.get(f"{at}/mastery", headers={"accept": "text/csv"})
    assert reply.headers["content-type"] == "text/csv; charset=utf-8"
    check_headers(reply, at)
    header, *rows = csv.reader(io.StringIO(reply.content.decode(), newline=""))
    assert header == ["learner", "skill", "mastery", "low", "high", "responses", "status"]
    guarded = {f"'{id_}" if id_[0] in "=+-@\t\r" else id_ for id_ in IDS}
    assert sorted(row[0] for row in rows) == sorted(row[1] for row in rows) == sorted(guarded)


async def test_id_that_no_address_carries_is_refused_wherever_it_would_be_new(client: httpx.AsyncClient) -> None:
    at = await make_course(client, COURSE, ["i"])
    answer = {"learner": "ann", "item": "i", "correct": True}
    for id_, reason in UNFIT.items():
        bodies: list[tuple[str, str, Any, str]] = [
            ("PUT", f"{at}/catalogue", {"skills": [{"id": id_}]}, "/skills/0/id"),
            ("PUT", f"{at}/catalogue", {"skills": [{"id": "s", "prerequisites": [id_]}]}, "/skills/0/prerequisites/0"),
            ("PUT", f"{at}/catalogue", {"items": [{"id": id_, "skills": []}]}, "/items/0/id"),
            ("PUT", f"{at}/catalogue", {"items": [{"id": "j", "skills": [id_]}]}, "/items/0/skills/0"),
            ("PUT", f"courses/{segment(id_)}/catalogue", {}, "{course}"),
            ("POST", f"{at}/responses", {**answer, "learner": id_}, "/learner"),
            ("POST", f"{at}/responses", {**answer, "item": id_}, "/item"),
            ("POST", f"{at}/responses", {**answer, "id": id_}, "/id"),
            ("POST", f"{at}/responses", {**answer, "recommendation": id_}, "/recommendation"),
            ("POST", f"{at}/sessions", {"id": id_}, "/id"),
            ("POST", f"{at}/sessions", {"learner": id_}, "/learner"),
            ("POST", f"{at}/sessions", {"pool": {"items": [id_]}}, "/pool/items/0"),
            ("POST", f"{at}/learners/{segment(id_)}/recommendations", {}, "{learner}"),
            ("POST", "webhooks", {"url": "https://x.org", "events": ["skill.mastered"], "course": id_}, "/course"),
        ]
        for method, path, body, pointer in bodies:
            told = await client.send(raw_request(client, method, path, json=body))
            faults = check_problem(told, 422, "invalid", (id_, path))["errors"]
            assert reason in {fault["pointer"]: fault["detail"] for fault in faults}[pointer], (faults, id_)
        batch = await client.post(f"{at}/responses:batch", json={"responses": [{**answer, "learner": id_}]})
        [result] = check_json(batch, 200, id_)["results"]
        assert reason in result["error"]["errors"][0]["detail"]
    for key in ("..", '"."', '" a"', '"a "'):
        told = await client.post(f"{at}/responses", json=answer, headers={"idempotency-key": key})
        assert check_problem(told, 422, "invalid", key)["errors"][0]["pointer"] == "Idempotency-Key:"
    assert check_json(await client.get(f"{at}/mastery"), 200, at)["data"] == []


async def test_ids_that_older_versions_stored_can_be_read_exported_and_restored(
    client: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, old = app_of(client).state.database, list(UNFIT)
    with monkeypatch.context() as patch:
        patch.setattr(catalogue, "check_id", str)
        await database.write(upsert, 1, " old", {"skills": [{"id": id_} for id_ in old]}, 1)
        await database.write(upsert, 1, " old", {"items": [{"id": id_, "skills": [id_]} for id_ in old]}, 1)
    answers = [
        replace(make_response(id_, id_, id_, 1, correct=True), course_id=" old", received_at=now()) for id_ in old
    ]
    assert all(isinstance(result, RecordedResponse) for result in await database.write(record, answers))

    async def check(caller: httpx.AsyncClient) -> None:
        at = "courses/%20old"
        for id_ in old:
            known = check_json(await get_raw(caller, f"{at}/learners/{segment(id_)}/mastery"), 200, id_)
            assert [row["skill"] for row in known["mastery"] if row["responses"]] == [id_]
            check_json(await get_raw(caller, f"{at}/learners/{segment(id_)}/recommendations"), 200, id_)
            cohort = await caller.get(f"{at}/mastery", params={"skill": id_})
            assert [row["learner"] for row in check_json(cohort, 200, id_)["data"]] == [id_]
            check_json(await caller.get(f"{at}/quality", params={"skill": id_}), 200, id_)
        for kind in ("skills", "items"):
            assert {one["id"] for one in await follow(caller, f"{at}/{kind}?limit=2")} == set(old)
        assert len((await caller.get(f"{at}/mastery", headers={"accept": "text/csv"})).text.split("\r\n")) > len(old)
        assert not await find_differences(app_of(caller).state.database, " old")

    await check(client)
    first = f"courses/%20old/responses/{segment(old[0])}"
    check_json(await post_raw(client, f"{first}/regrade", {"score": 0.5, "reason": "half"}), 200, "regrade")
    left_out = {"leave_out": {"learners": old}}
    check_problem(await client.post("courses/%20old/calibrations", json=left_out), 409, "nothing_to_calibrate", "all")
    file, copy = tmp_path / "backup.gz", f"sqlite:///{tmp_path / 'copy.db'}"
    with replace_atomically(file, overwrite=False, progress=lambda *_: None) as target:
        await database.read(transfer.dump_database, target, now(), lambda *_: None)
    _, contents = check_backup(file, lambda *_: None)
    run_exclusively(copy, lambda db: transfer.restore(db, file, contents, lambda *_: None))
    async with served(copy) as app, client_of(app, await make_key(app.state.database)) as other:
        await check(other)


def odd_text(start: int) -> str:
    """212 characters of four bytes each."""
    return "".join(chr(0x10000 + (start * 7919 + place * 104_729) % 0xFFFFF) for place in range(212))


async def test_ids_of_the_largest_size_are_stored(client: httpx.AsyncClient) -> None:
    """850 bytes, hardly one like another, so that no database can make them shorter: its indexes must hold them."""
    long = [odd_text(start) + "é" for start in range(4)]
    assert {len(id_.encode()) for id_ in long} == {850}
    at = await make_course(client, long[0], long[:2])
    body = {"skills": [{"id": long[0], "prerequisites": [long[1]]}]}
    check_json(await client.put(f"{at}/catalogue", json=body), 200, "prerequisites")
    answer = {"id": long[2], "learner": long[3], "item": long[0], "correct": True}
    check_json(await client.post(f"{at}/responses", json=answer), 201, "response")
    check_json(await client.post(f"{at}/learners/{segment(long[3])}/recommendations"), 201, "offer")
    check_json(await client.post(f"{at}/responses/{segment(long[2])}/void", json={"reason": "x"}), 200, "void")
    longer = {**answer, "id": long[2] + "x"}
    check_problem(await client.post(f"{at}/responses", json=longer), 422, "invalid", "longer")
    check_problem(await client.get(f"courses/{segment(long[0] + 'x')}/skills"), 422, "invalid", "longer")


async def test_id_with_an_encoded_slash_is_accepted_but_not_nul_or_broken_bytes(client: httpx.AsyncClient) -> None:
    at = await make_course(client, "a/b", ["s"])
    assert (await client.get(f"{at}/skills")).status_code == 200
    for other in ("a%00b", "a%2f%2fb", "a%AFb", "a%252Fb", "a%5Cb"):
        assert (await client.get(f"courses/{other}/skills")).status_code in {404, 422}, other
    await make_course(client, "a\ufffdb", ["s"])
    assert (await client.get("courses/a%FFb/skills")).status_code == 422


async def follow(client: httpx.AsyncClient, path: str) -> list[dict[str, Any]]:
    """All elements of a list, by the Link header of each page; `next` must say the same."""
    found: list[dict[str, Any]] = []
    url: str | None = path
    while url is not None:
        reply = await client.get(client.base_url.join(url) if url.startswith("/") else url)
        page = check_json(reply, 200, url)
        found.extend(page["data"])
        link = re.fullmatch(r'<(/[!-;=?-~]+)>; rel="next"', reply.headers.get("link", ""))
        assert (link is None) == (page["next"] is None) == ("link" not in reply.headers)
        url = link[1] if link else None
        assert url is None or f"cursor={page['next']}" in urlsplit(url).query
        assert len(found) < 1000
    return found


async def test_list_followed_by_its_links_is_complete(client: httpx.AsyncClient) -> None:
    names = [f"n {number:02d}/ü" for number in range(23)]
    at = await make_course(client, "c 1/ü", names)
    answers = [
        {"learner": f"l/{number % 5}", "item": names[number], "correct": number % 2 == 0}
        for number in range(len(names))
    ]
    check_json(await client.post(f"{at}/responses:batch", json={"responses": answers}), 200, "batch")
    rows = sorted((answer["learner"], answer["item"]) for answer in answers)
    for limit in (1, 2, 7, 22, 23, 24, 1000):
        for kind in ("skills", "items"):
            found = await follow(client, f"{at}/{kind}?limit={limit}")
            assert [element["id"] for element in found] == names, (kind, limit)
        cohort = await follow(client, f"{at}/mastery?limit={limit}")
        assert [(row["learner"], row["skill"]) for row in cohort] == rows, limit
        one = await follow(client, f"{at}/mastery?limit={limit}&skill={segment(names[3])}")
        assert [row["learner"] for row in one] == ["l/3"], limit


async def test_calibrations_are_paged_from_the_newest(client: httpx.AsyncClient) -> None:
    await make_course(client, COURSE, ["i"])
    answers = [{"learner": f"l{number}", "item": "i", "correct": True} for number in range(100)]
    await client.post(f"courses/{COURSE}/responses:batch", json={"responses": answers})
    database = app_of(client).state.database
    for day in range(1, 6):
        # Each fell silent long before the next was asked for.
        await database.write(request_calibration, 1, COURSE, now() - (5 - day) * HOUR_US)
    for limit in (1, 2, 4, 5, 6):
        found = await follow(client, f"courses/{COURSE}/calibrations?limit={limit}")
        assert [one["id"] for one in found] == ["c-5", "c-4", "c-3", "c-2", "c-1"]
        assert [one["status"] for one in found] == ["running", "failed", "failed", "failed", "failed"]


async def test_page_is_stable_while_the_list_grows(client: httpx.AsyncClient) -> None:
    names = [f"n{number:02d}" for number in range(0, 40, 2)]
    at = await make_course(client, COURSE, names)
    seen: list[str] = []
    cursor = None
    for number in range(1, 40, 2):
        page = check_json(
            await client.get(f"{at}/skills", params={"limit": 1, **({"cursor": cursor} if cursor else {})}), 200, at
        )
        seen.extend(element["id"] for element in page["data"])
        cursor = page["next"]
        await client.put(f"{at}/catalogue", json={"skills": [{"id": f"n{40 - number:02d}"}]})
    assert len(seen) == len(set(seen))
    assert seen == sorted(seen)
