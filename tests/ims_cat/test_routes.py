"""1EdTech CAT 1.0 on both databases: what TAO's client sends, to the end of a test; retries, hostile bodies."""

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import jsonschema_rs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import Connection, func, select

from app.core.errors import InvalidScore
from app.core.security import SCOPES
from app.http import admission, ims_status
from app.http import rate_limits as limits
from app.ims_cat.sections import SubmittedResult, rescale_score
from app.models import Course, SectionExchange, SessionResponse
from app.schemas.common import LARGEST_SCORE
from app.services import sessions
from app.services.keys import create_key
from app.services.verification import VerificationResult
from tests.client import app_of, client_of, make_key, served, verify
from tests.gate.examples import examples

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}
BASE = f"http://service{ims_status.PREFIX}"
INLINE: dict[str, Any] = {
    "items": [
        {
            "id": f"q{number:02d}",
            "a": 0.9 + 0.05 * number,
            "b": -1.2 + 0.2 * number,
            "skills": ["a b" if number % 2 else "geo"],
        }
        for number in range(12)
    ],
    "stop": {"max_items": 4},
}
FORM = [f"I106-{number:02d}" for number in range(5)]
FORMS = {"baseForm": "74C", "forms": [{"form": "74C1", "items": [{"itemId": id_} for id_ in FORM]}]}


def encode(configuration: object) -> str:
    """A configuration as a platform posts it."""
    text = configuration if isinstance(configuration, str) else json.dumps(configuration)
    return base64.b64encode(text.encode()).decode()


# The replies by the letter of the standard, but for the empty list at the end.


def closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


TEXT: dict[str, Any] = {"type": "string"}
NUMBER: dict[str, Any] = {"type": "number"}
BASE_TYPE = {
    "enum": [
        "boolean",
        "directedPair",
        "duration",
        "file",
        "float",
        "identifier",
        "integer",
        "pair",
        "point",
        "string",
        "uri",
    ]
}
VALUE = closed({"value": TEXT, "fieldIdentifier": TEXT, "baseType": BASE_TYPE}, "value")
OUTCOME = closed(
    {
        "identifier": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_.-]*$"},
        "cardinality": {"enum": ["multiple", "ordered", "record", "single"]},
        "baseType": BASE_TYPE,
        "normalMaximum": NUMBER,
        "normalMinimum": NUMBER,
        "masteryValue": NUMBER,
        "value": {"type": "array", "items": VALUE},
    },
    "identifier",
    "cardinality",
)
STATE = {"type": "string", "pattern": r"^[^\r\n\t]+$"}
NEXT = closed(
    {"itemIdentifiers": {"type": "array", "items": TEXT}, "stageLength": {"type": "integer", "minimum": 0}},
    "itemIdentifiers",
)
TEST_RESULT = closed(
    {
        "identifier": TEXT,
        "datestamp": {"type": "string", "format": "date-time"},
        "outcomeVariables": {"type": "array", "items": OUTCOME},
    },
    "identifier",
    "datestamp",
)
MINOR = {
    "enum": ["forbidden", "invaliddata", "unauthorisedrequest", "internal_server_error", "server_busy", "unknownobject"]
}
SCHEMAS = {
    "CreateSectionResponseBodyDType": closed({"sectionIdentifier": TEXT}, "sectionIdentifier"),
    "GetSectionResponseBodyDType": closed(
        {
            "items": closed({"itemIdentifiers": {"type": "array", "minItems": 1, "items": TEXT}}, "itemIdentifiers"),
            "section": closed(
                {"sectionConfiguration": TEXT, "qtiUsagedata": TEXT, "qtiMetadata": {}}, "sectionConfiguration"
            ),
        }
    ),
    "CreateSessionResponseBodyDType": closed(
        {"sessionIdentifier": TEXT, "nextItems": NEXT, "sessionState": STATE}, "sessionIdentifier", "sessionState"
    ),
    "GetNextItemsResponseBodyDType": closed(
        {"nextItems": NEXT, "sessionState": STATE, "assessmentResult": closed({"testResult": TEST_RESULT})},
        "sessionState",
    ),
    "imsx_StatusInfoDType": closed(
        {
            "imsx_codeMajor": {"const": "failure"},
            "imsx_severity": {"const": "error"},
            "imsx_description": TEXT,
            "imsx_codeMinor": closed(
                {
                    "imsx_codeMinorField": {
                        "type": "array",
                        "minItems": 1,
                        "items": closed(
                            {
                                "imsx_codeMinorFieldName": {"const": "TargetEndSystem"},
                                "imsx_codeMinorFieldValue": MINOR,
                            },
                            "imsx_codeMinorFieldName",
                            "imsx_codeMinorFieldValue",
                        ),
                    }
                },
                "imsx_codeMinorField",
            ),
        },
        "imsx_codeMajor",
        "imsx_severity",
        "imsx_description",
        "imsx_codeMinor",
    ),
}


def original() -> dict[str, Any]:
    """The definitions of the standard's own file, if the folder of standards is given; it may not be copied."""
    folder = os.environ.get("STANDARDS")
    if folder is None:
        return {}
    file = Path(folder) / "samples" / "cat" / "1edtech-cat-v1p0-openapi2-2020draft.json"
    definitions: dict[str, Any] = json.loads(file.read_text())["definitions"]
    definitions["NextItemSetDType"]["properties"]["itemIdentifiers"]["minItems"] = 0  # the end of a test
    definitions["SectionDType"]["properties"]["qtiMetadata"] = {}  # an object since 2021
    return definitions


ORIGINAL = original()


def check_type(name: str, told: object) -> None:
    """Whether a reply is what the standard says, by our own schema and by the original where it is given."""
    jsonschema_rs.validator_for(SCHEMAS[name], validate_formats=True).validate(told)
    if ORIGINAL:
        jsonschema_rs.validator_for({"$ref": f"#/definitions/{name}", "definitions": ORIGINAL}).validate(told)


def check_error(reply: httpx.Response, status: int, minor: str, what: object = "") -> str:
    """The description of an error of the standard's form."""
    assert reply.status_code == status, (what, reply.text)
    assert reply.headers["content-type"] == "application/json", what
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["x-request-id"]
    told = reply.json()
    check_type("imsx_StatusInfoDType", told)
    assert told["imsx_codeMinor"]["imsx_codeMinorField"][0]["imsx_codeMinorFieldValue"] == minor, what
    assert ("www-authenticate" in reply.headers) == (status == 401)
    assert ("retry-after" in reply.headers) == (status in (429, 503))
    return str(told["imsx_description"])


def item_result(item: str, score: object = "1", **more: Any) -> dict[str, Any]:
    """A result as TAO's client sends it, with its quirks."""
    value = [] if score is None else [{"baseType": "FLOAT", "value": score}]
    outcome = {"identifier": "SCORE", "cardinality": 0, "value": value, **more.pop("outcome", {})}
    return {
        "identifier": item,
        "datestamp": "2026-11-22T09:39:35.353443Z",
        "sessionStatus": "FINAL",
        "outcomeVariables": [outcome],
        **more,
    }


def results(state: str | None, *listed: dict[str, Any]) -> dict[str, Any]:
    context: dict[str, Any] = {"sourcedId": None, "sessionIdentifiers": []}
    return {"assessmentResult": {"context": context, "itemResult": list(listed)}, "sessionState": state}


class Platform:
    """A delivery platform with a key."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def post(self, path: str, body: object) -> httpx.Response:
        return await self.client.post(f"{BASE}/{path}", content=json.dumps(body), headers=JSON)

    async def section(self, configuration: object, **more: Any) -> str:
        reply = await self.post("sections", {"sectionConfiguration": encode(configuration), **more})
        assert reply.status_code == 201, reply.text
        check_type("CreateSectionResponseBodyDType", reply.json())
        return str(reply.json()["sectionIdentifier"])

    async def begin(self, section: str, **prior: str) -> "CatSession":
        pairs = [{"key": key, "value": value} for key, value in (prior or {"initialEstimatedAbility": "0.0"}).items()]
        reply = await self.post(f"sections/{section}/sessions", {"priorData": pairs})
        assert reply.status_code == 201, reply.text
        told = reply.json()
        check_type("CreateSessionResponseBodyDType", told)
        return CatSession(self, section, told["sessionIdentifier"], told)


class CatSession:
    """One learner in front of a platform: what was told last."""

    def __init__(self, platform: Platform, section: str, id_: str, told: dict[str, Any]) -> None:
        self.platform, self.section, self.id, self.reply = platform, section, id_, told

    @property
    def items(self) -> list[str]:
        return list(self.reply["nextItems"]["itemIdentifiers"])

    @property
    def state(self) -> str:
        return str(self.reply["sessionState"])

    @property
    def path(self) -> str:
        return f"sections/{self.section}/sessions/{self.id}"

    async def send(self, *listed: dict[str, Any], state: str | None = None) -> httpx.Response:
        return await self.platform.post(f"{self.path}/results", results(state or self.state, *listed))

    async def go_on(self, *listed: dict[str, Any], state: str | None = None) -> dict[str, float]:
        """Send results and keep what is told; the variables as numbers."""
        reply = await self.send(*listed, state=state)
        assert reply.status_code == 201, reply.text
        self.reply = reply.json()
        check_type("GetNextItemsResponseBodyDType", self.reply)
        return {name: float(value) for name, value in self.variables().items() if name != "STOP_REASON"}

    def variables(self) -> dict[str, str]:
        listed = self.reply["assessmentResult"]["testResult"]["outcomeVariables"]
        assert all(one["value"][0]["baseType"] == one["baseType"] for one in listed)
        return {one["identifier"]: one["value"][0]["value"] for one in listed}

    async def to_the_end(self, score: Callable[[int], str] = lambda place: str(place % 2)) -> list[str]:
        items = []
        while self.items:
            items.append(self.items[0])
            await self.go_on(item_result(self.items[0], score(len(items))))
        return items


@asynccontextmanager
async def platform_of(database_url: str, **settings: Any) -> AsyncIterator[Platform]:
    async with served(database_url, **settings) as app, client_of(app, await make_key(app.state.database)) as client:
        yield Platform(client)


@pytest.fixture
async def platform(database_url: str) -> AsyncIterator[Platform]:
    async with platform_of(database_url) as one:
        yield one


async def described(cat_session: CatSession) -> dict[str, Any]:
    """The session as our own interface tells it."""
    reply = await cat_session.platform.client.get(f"sessions/{cat_session.id}")
    told: dict[str, Any] = reply.json()
    return told


async def proven(platform: Platform, course: str) -> VerificationResult:
    return await verify(app_of(platform.client).state.database, course)


async def test_exchanges_of_tao_lead_to_the_end_of_a_test(platform: Platform) -> None:
    section = await platform.section(INLINE, qtiMetadata="", qtiUsagedata="")
    cat_session = await platform.begin(section)
    assert (len(cat_session.items), cat_session.reply["nextItems"]["stageLength"]) == (3, 1)
    items, seen = [], []
    while cat_session.items:
        items.append(cat_session.items[0])
        seen.append(await cat_session.go_on(item_result(cat_session.items[0], str(len(items) % 2))))
    assert len(set(items)) == 4
    assert cat_session.reply["nextItems"] == {"itemIdentifiers": [], "stageLength": 0}
    assert cat_session.variables()["STOP_REASON"] == "max_items"
    assert all("STOP_REASON" not in each for each in seen)
    assert [each["SE"] for each in seen] == sorted((each["SE"] for each in seen), reverse=True)
    assert seen[0]["THETA"] > 0 > seen[1]["THETA"] - seen[0]["THETA"]
    mastery = {name for name in seen[-1] if name.startswith("MASTERY_")}
    assert "MASTERY_geo" in mastery
    assert len(mastery) == 2
    ours = await described(cat_session)
    assert (ours["status"], ours["learner"]) == ("finished", None)
    assert ours["ability"] == {"theta": seen[-1]["THETA"], "standard_error": seen[-1]["SE"]}
    assert not (await proven(platform, ours["course"])).differences


async def test_token_gives_access_to_1edtech_cat(database_url: str) -> None:
    async with platform_of(database_url) as one:
        app = app_of(one.client)
        key = await app.state.database.write(create_key, "school", ["catalogue:write", "responses:write"], 1)
        form = {"grant_type": "client_credentials", "client_id": key.id, "client_secret": key.text}
        async with client_of(app) as stranger:
            told = (await stranger.post("http://service/v1/oauth/token", data=form)).json()
            stranger.headers["authorization"] = f"Bearer {told['access_token']}"
            cat_session = await Platform(stranger).begin(await Platform(stranger).section(INLINE))
            assert len(await cat_session.to_the_end()) == 4


async def test_captured_exchanges_can_be_replayed(platform: Platform) -> None:
    folder = os.environ.get("STANDARDS")
    if folder is None:
        pytest.skip("set STANDARDS to the folder that holds samples/cat")
    captured = json.loads((Path(folder) / "samples" / "cat" / "captured-TAO-client-exchanges.json").read_text())
    made, begun, sent, unknown = captured["exchanges"]
    listed = begun["response"]["nextItems"]["itemIdentifiers"]
    forms = {"baseForm": "74C", "forms": [{"form": "74C1", "items": [{"itemId": id_} for id_ in listed]}]}
    reply = await platform.post("sections", {**made["request"], "sectionConfiguration": encode(forms)})
    assert reply.status_code == made["status"]
    section = reply.json()["sectionIdentifier"]
    reply = await platform.post(f"sections/{section}/sessions", begun["request"])
    assert reply.status_code == begun["status"]
    assert reply.json()["nextItems"] == begun["response"]["nextItems"]
    cat_session = CatSession(platform, section, reply.json()["sessionIdentifier"], reply.json())
    first = {**sent["request"], "sessionState": cat_session.state}
    reply = await platform.post(f"{cat_session.path}/results", first)
    assert reply.status_code == sent["status"]
    assert reply.json()["nextItems"] == sent["response"]["nextItems"]
    assert reply.json().keys() == sent["response"].keys()
    cat_session.reply = reply.json()
    [template] = sent["request"]["assessmentResult"]["itemResult"]
    while cat_session.items:
        await cat_session.go_on({**template, "identifier": cat_session.items[0]})
    assert cat_session.variables()["STOP_REASON"] == "max_items"
    assert check_error(
        await platform.client.get(f"{BASE}/sections/nope"), unknown["status"], "unknownobject"
    ).startswith(unknown["response"]["imsx_description"])


async def test_section_is_created_once_and_returned_as_it_was_posted(platform: Platform) -> None:
    configuration = base64.b64encode(json.dumps(INLINE).encode()).decode().rstrip("=")
    folded = "\n".join(configuration[at : at + 60] for at in range(0, len(configuration), 60))
    bodies: list[dict[str, Any]] = [
        {"sectionConfiguration": configuration},
        {"sectionConfiguration": folded.replace("+", "-").replace("/", "_"), "qtiUsagedata": None},
        {"sectionConfiguration": configuration, "qtiMetadata": "", "qtiUsagedata": ""},
        {"sectionConfiguration": configuration, "qtiMetadata": {"toolName": "t", "composite": True}},
    ]
    ids = set()
    for body in bodies:
        made = [(await platform.post("sections", {**body, "unknown": {"a": [1]}})).json() for _ in range(2)]
        assert made[0] == made[1]
        ids.add(made[0]["sectionIdentifier"])
        told = (await platform.client.get(f"{BASE}/sections/{made[0]['sectionIdentifier']}")).json()
        check_type("GetSectionResponseBodyDType", told)
        assert told["section"] == {name: value for name, value in body.items() if value is not None}
        assert told["items"]["itemIdentifiers"] == [item["id"] for item in INLINE["items"]]
    assert len(ids) == len(bodies)
    courses = await app_of(platform.client).state.database.read(lambda db: db.scalar(select(func.count(Course.id))))
    assert courses == 1


async def test_section_can_be_ended_and_created_again(platform: Platform) -> None:
    section = await platform.section(INLINE)
    cat_session = await platform.begin(section)
    gone = await platform.client.delete(f"{BASE}/sections/{section}")
    assert (gone.status_code, gone.content) == (204, b"")
    for reply in (
        await platform.client.delete(f"{BASE}/sections/{section}"),
        await platform.client.get(f"{BASE}/sections/{section}"),
        await platform.post(f"sections/{section}/sessions", {}),
        await cat_session.send(item_result(cat_session.items[0])),
        await platform.client.delete(f"{BASE}/{cat_session.path}"),
    ):
        assert "Unknown Object" in check_error(reply, 404, "unknownobject")
    assert await platform.section(INLINE) != section


@pytest.mark.parametrize("finished", [False, True])
async def test_session_can_be_ended(platform: Platform, finished: bool) -> None:
    cat_session = await platform.begin(await platform.section(INLINE))
    if finished:
        last = (await cat_session.to_the_end())[-1]
        await cat_session.go_on(item_result(last, "0"))
        assert cat_session.items == []
    other = await platform.section({**INLINE, "lookAhead": 0})
    check_error(
        await platform.client.delete(f"{BASE}/sections/{other}/sessions/{cat_session.id}"), 404, "unknownobject"
    )
    assert (await platform.client.delete(f"{BASE}/{cat_session.path}")).status_code == 204
    check_error(await platform.client.delete(f"{BASE}/{cat_session.path}"), 404, "unknownobject")
    check_error(await cat_session.send(item_result("q00")), 404, "unknownobject")
    assert (await described(cat_session))["status"] == "finished"


async def test_session_that_the_other_interface_ended_offers_nothing_more(platform: Platform) -> None:
    cat_session = await platform.begin(await platform.section(INLINE))
    await cat_session.go_on(item_result(cat_session.items[0]))
    late = item_result(cat_session.items[0], "0")
    await platform.client.post(f"sessions/{cat_session.id}/end", json={})
    before = cat_session.state
    first, again = await cat_session.send(late), await cat_session.send(late)
    assert (first.status_code, first.content) == (201, again.content)
    cat_session.reply = first.json()
    assert (cat_session.items, cat_session.variables()["STOP_REASON"]) == ([], "ended")
    assert cat_session.state != before
    assert await count(platform, SessionResponse) == 1
    check_error(await cat_session.send(late), 400, "invaliddata")


async def test_session_that_the_other_interface_answered_goes_on_from_there(platform: Platform) -> None:
    cat_session = await platform.begin(await platform.section(INLINE))
    item = cat_session.items[0]
    told = await platform.client.post(f"sessions/{cat_session.id}/responses", json={"item": item, "score": 1})
    assert told.status_code == 201, told.text
    check_error(await cat_session.send(item_result(item, "0")), 400, "invaliddata")
    await cat_session.go_on(item_result(item))
    assert cat_session.items[0] == told.json()["next"]["item"]
    assert len(await cat_session.to_the_end()) == 3
    assert await count(platform, SessionResponse) == 4


async def test_session_expires(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    left = await platform.begin(await platform.section(INLINE))
    monkeypatch.setattr(sessions, "SECOND_US", 0)
    check_error(await left.send(item_result(left.items[0])), 404, "unknownobject")
    assert (await platform.client.delete(f"{BASE}/{left.path}")).status_code == 204


async def test_repeated_results_return_the_same_bytes(platform: Platform) -> None:
    cat_session = await platform.begin(await platform.section(INLINE))
    steps = []
    while cat_session.items:
        body = results(cat_session.state, item_result(cat_session.items[0], "1"))
        reply = await platform.post(f"{cat_session.path}/results", body)
        steps.append((body, reply.content))
        cat_session.reply = reply.json()
    for body, content in steps:
        again = await platform.post(f"{cat_session.path}/results", body)
        assert (again.status_code, again.content) == (201, content)
    last = {**steps[-1][0], "sessionState": None}
    assert (await platform.post(f"{cat_session.path}/results", last)).content == steps[-1][1]
    assert await count(platform, SessionResponse) == len(steps)
    for body, _ in steps:
        [one] = body["assessmentResult"]["itemResult"]
        other = results(body["sessionState"], item_result(one["identifier"], "0"))
        check_error(await platform.post(f"{cat_session.path}/results", other), 400, "invaliddata")


async def count(platform: Platform, table: Any) -> int:
    def rows(db: Connection) -> int:
        return db.scalar(select(func.count()).select_from(table)) or 0

    number: int = await app_of(platform.client).state.database.read(rows)
    return number


async def test_simultaneous_results_count_once(platform: Platform) -> None:
    section = await platform.section(INLINE)
    same, contrary = await platform.begin(section), await platform.begin(section)
    replies = await asyncio.gather(*(same.send(item_result(same.items[0])) for _ in range(6)))
    assert {(reply.status_code, reply.content) for reply in replies} == {(201, replies[0].content)}
    scores = ["0", "1"] * 3
    replies = await asyncio.gather(*(contrary.send(item_result(contrary.items[0], score)) for score in scores))
    won = {reply.content for reply in replies if reply.status_code == 201}
    assert len(won) == 1
    assert {reply.status_code for reply in replies} == {201, 400}
    assert (await count(platform, SessionResponse), await count(platform, SectionExchange)) == (2, 4)
    made = await asyncio.gather(*(platform.section({**INLINE, "lookAhead": 1}) for _ in range(6)))
    assert len(set(made)) == 1


async def test_results_of_items_answered_ahead_are_processed_in_their_order(platform: Platform) -> None:
    cat_session = await platform.begin(await platform.section({**INLINE, "stop": {"max_items": 6}, "lookAhead": 3}))
    first = cat_session.items
    assert len(first) == 4
    for refused in (
        [item_result(first[1])],
        [item_result(first[0]), item_result(first[2])],
        [item_result("q11" if "q11" not in first else "q10")],
        [item_result("nothing")],
    ):
        check_error(await cat_session.send(*refused), 400, "invaliddata", refused)
    assert await count(platform, SessionResponse) == 0
    await cat_session.go_on(item_result(first[1], "0"), item_result(first[0], "1"))
    ours = await described(cat_session)
    assert [step["item"] for step in ours["responses"]] == first[:2]
    # All that was sent before, once more, and what came since.
    await cat_session.go_on(item_result(first[0], "1"), item_result(first[1], "0"), item_result(cat_session.items[0]))
    assert (await described(cat_session))["position"] == 3
    assert not (await proven(platform, ours["course"])).differences


async def test_platform_that_missed_a_reply_continues_from_the_offer_before(platform: Platform) -> None:
    cat_session = await platform.begin(await platform.section({**INLINE, "stop": {"max_items": 6}}))
    state, first = cat_session.state, cat_session.items
    lost = await cat_session.send(item_result(first[0]))
    assert lost.status_code == 201
    await cat_session.go_on(
        item_result(first[0], datestamp="2026-11-22T09:40:00Z"), item_result(first[1], "0"), state=state
    )
    assert [step["item"] for step in (await described(cat_session))["responses"]] == first[:2]
    check_error(await cat_session.send(item_result(first[2]), state=state), 400, "invaliddata")
    assert (await cat_session.send(item_result(cat_session.items[0]))).status_code == 201


async def test_results_that_are_not_final_are_ignored(platform: Platform) -> None:
    cat_session = await platform.begin(await platform.section(INLINE))
    first, state = cat_session.items[0], cat_session.state
    for status in ("initial", "pendingSubmission", "pendingResponseProcessing"):
        await cat_session.go_on(item_result(first, "0", sessionStatus=status))
        assert (cat_session.items[0], cat_session.state) == (first, state)
    await cat_session.go_on()
    assert cat_session.state == state
    early, late = "2026-11-22T09:00:00Z", "2026-11-22T09:00:01+00:00"
    await cat_session.go_on(item_result(first, "1", datestamp=late), item_result(first, "0", datestamp=early))
    assert (await described(cat_session))["responses"][0]["score"] == 1


async def test_scores_are_read_in_many_forms(platform: Platform) -> None:
    items = [{"id": "two", "b": 0, "maxScore": 2}, {"id": "steps", "model": "GPCM", "thresholds": [0, 1, 2]}]
    section = await platform.section({"items": items, "stop": {"max_items": 1}, "selection": {"first": ["two"]}})
    graded = await platform.section({"items": items, "stop": {"max_items": 1}, "selection": {"first": ["steps"]}})
    unchanged: dict[str, Any] = {}
    for where, item, score, outcome, stored in [
        (section, "two", "2", unchanged, 2), (section, "two", 2, unchanged, 2), (section, "two", 2.0, unchanged, 2),
        (section, "two", "0", unchanged, 0), (section, "two", "-1", unchanged, 0), (section, "two", "1", unchanged, 2),
        (section, "two", "0.99", unchanged, 0), (section, "two", "1", {"normalMaximum": 1}, 2),
        (section, "two", "10", {"normalMaximum": "10"}, 2),
        (section, "two", "0.4", {"identifier": "score", "normalMaximum": 1}, 0),
        (section, "two", "0", {"normalMaximum": 1, "normalMinimum": -1}, 2), (section, "two", True, unchanged, 2),
        (graded, "steps", "3", unchanged, 3), (graded, "steps", "1.4", unchanged, 1),
        (graded, "steps", "50", {"normalMaximum": 100}, 2), (section, "two", None, unchanged, 0),
    ]:  # fmt: skip
        cat_session = await platform.begin(where)
        await cat_session.go_on(item_result(item, score, outcome=outcome))
        assert (await described(cat_session))["responses"][0]["score"] == stored, (score, outcome)
    for score in ("3", "NaN", "inf", "1e400", "x", {"a": 1}, "1,5"):
        cat_session = await platform.begin(section)
        check_error(await cat_session.send(item_result("two", score)), 400, "invaliddata", score)


@given(
    lowest=st.none() | st.floats(-LARGEST_SCORE, LARGEST_SCORE),
    highest=st.none() | st.floats(-LARGEST_SCORE, LARGEST_SCORE),
    score=st.none() | st.floats(-LARGEST_SCORE, LARGEST_SCORE),
)
@example(lowest=1, highest=None, score=1)
@example(lowest=1, highest=1, score=1)
@example(lowest=1, highest=0, score=None)
@example(lowest=None, highest=0, score=34)
@example(lowest=None, highest=-1, score=0)
@examples(200)
def test_score_of_any_range_is_one_of_the_items_or_refused(
    lowest: float | None, highest: float | None, score: float | None
) -> None:
    pool = SimpleNamespace(index_by_id={"q": 0}, max_scores=[2.0], pool=SimpleNamespace(max_category=[4]))
    result = SubmittedResult("/there", "q", 0, score, lowest, highest)
    bottom, top = lowest or 0.0, 2.0 if highest is None else highest
    # What differs in the last bit only is no higher.
    if top <= bottom or (score is not None and (score - bottom) / (top - bottom) > 1):
        with pytest.raises(InvalidScore) as refused:
            rescale_score(pool, result)  # type: ignore[arg-type]
        assert [fault.pointer for fault in refused.value.faults] == ["/there"]
    else:
        assert rescale_score(pool, result) in (0, 0.5, 1, 1.5, 2)  # type: ignore[arg-type]


async def test_range_of_a_score_that_is_turned_or_empty_is_refused_with_its_place(platform: Platform) -> None:
    cat_session = await platform.begin(await platform.section(INLINE))
    ranges: list[dict[str, Any]] = [
        {"normalMinimum": 1, "normalMaximum": 0},
        {"normalMinimum": 1, "normalMaximum": 1},
        {"normalMinimum": 1},
        {"normalMaximum": -1},
        {"normalMaximum": 0},
        {"normalMinimum": "x"},
        {"normalMinimum": {}},
    ]
    for ends in ranges:
        told = check_error(
            await cat_session.send(item_result(cat_session.items[0], outcome=ends)), 400, "invaliddata", ends
        )
        assert "/assessmentResult/itemResult/0/outcomeVariables" in told, ends
        assert "normalMinimum" in told
    assert await count(platform, SessionResponse) == 0
    await cat_session.go_on(item_result(cat_session.items[0], outcome={"normalMinimum": -1, "normalMaximum": 1}))


async def test_skipped_items_count_as_zero_or_not_at_all(platform: Platform) -> None:
    zero = await platform.begin(await platform.section(INLINE))
    assert (await zero.go_on(item_result(zero.items[0], None)))["THETA"] < 0
    ignoring = await platform.section({**INLINE, "skipped": "ignore", "stop": {"max_items": 2}})
    other = await platform.begin(ignoring)
    left_out = other.items[0]
    seen = await other.go_on(item_result(left_out, None))
    assert (seen["THETA"], seen["SE"]) == (0, 1)
    assert len(await other.to_the_end()) == 2
    ours = await described(other)
    assert [(step["item"] == left_out, step["scored"]) for step in ours["responses"]] == [
        (True, False), (False, True), (False, True)
    ]  # fmt: skip
    assert not (await proven(platform, ours["course"])).differences
    limits = {"constraints": [{"skill": "geo", "max": 2}]}
    wanted = {**INLINE, "skipped": "ignore", "selection": limits}
    check_error(await platform.post("sections", {"sectionConfiguration": encode(wanted)}), 400, "invaliddata")


async def test_section_keeps_its_bounds_in_what_it_offers_ahead_too(platform: Platform) -> None:
    bounds = {"constraints": [{"skill": "geo", "min": 2, "max": 2}]}
    wanted = {**INLINE, "selection": bounds, "stop": {"max_items": 6}, "lookAhead": 3}
    cat_session = await platform.begin(await platform.section(wanted))
    assert len(cat_session.items) == 4
    await cat_session.go_on(*(item_result(item, str(place % 2)) for place, item in enumerate(cat_session.items[:3])))
    await cat_session.to_the_end()
    ours = await described(cat_session)
    assert sum(int(step["item"].removeprefix("q")) % 2 == 0 for step in ours["responses"]) == 2
    assert not (await proven(platform, ours["course"])).differences


async def test_end_of_test_can_be_shown_by_omitting_next_items(platform: Platform) -> None:
    cat_session = await platform.begin(
        await platform.section({**INLINE, "endOfTest": "omit", "stop": {"max_items": 1}})
    )
    await cat_session.go_on(item_result(cat_session.items[0]))
    assert cat_session.reply.keys() == {"sessionState", "assessmentResult"}
    again = await cat_session.send(item_result(cat_session.variables()["STOP_REASON"]))
    check_error(again, 400, "invaliddata")


async def test_results_beyond_the_end_do_not_count(platform: Platform) -> None:
    cat_session = await platform.begin(
        await platform.section({**INLINE, "stop": {"standard_error": 3, "min_items": 2}})
    )
    first = cat_session.items
    await cat_session.go_on(*(item_result(item, str(place % 2)) for place, item in enumerate(first)))
    assert cat_session.items == []
    assert (await described(cat_session))["position"] == 2


async def test_session_uses_the_prior_that_the_platform_sends(platform: Platform) -> None:
    section = await platform.section(INLINE)
    known = {
        "learnerId": "ann",
        "priorMean": "1.5",
        "priorSd": "0.5",
        "seed": "7",
        "initialEstimatedAbility": "-1",
        "x": "y",
    }
    ours = await described(await platform.begin(section, **known))
    assert (ours["learner"], ours["seed"], ours["ability"]) == ("ann", 7, {"theta": 1.5, "standard_error": 0.5})
    estimate = await described(await platform.begin(section, initialEstimatedAbility="-1"))
    assert estimate["ability"]["theta"] == pytest.approx(-1, abs=1e-3)
    own = await platform.section({**INLINE, "prior": {"mean": 0.5, "sd": 1}})
    assert (await described(await platform.begin(own)))["ability"]["theta"] == pytest.approx(0.5, abs=1e-3)
    for wrong in ({"priorMean": "x"}, {"priorSd": "0"}, {"seed": "-1"}, {"seed": "1.5"}, {"learnerId": "x" * 300}):
        pairs = [{"key": key, "value": value} for key, value in wrong.items()]
        check_error(
            await platform.post(f"sections/{section}/sessions", {"priorData": pairs}), 400, "invaliddata", wrong
        )
    nothing: list[dict[str, Any]] = [{}, {"priorData": None}, {"priorData": [], "demographics": "e30="}]
    for empty in nothing:
        assert (await platform.post(f"sections/{section}/sessions", empty)).status_code == 201


USAGE = """<?xml version="1.0" encoding="UTF-8"?>
<usageData xmlns="http://www.imsglobal.org/xsd/imsqti_usagedata_v2p2" glossary="http://example.org/g">
{}</usageData>"""


def statistic(name: str, item: str, value: object, context: str = "http://example.org/2025") -> str:
    return (
        f'<ordinaryStatistic name="{name}" context="{context}" caseCount="300"><targetObject identifier="{item}"/>'
        f"<value>{value}</value></ordinaryStatistic>\n"
    )


def usage_of(*items: str, b: float = 0.0) -> str:
    told = "".join(
        statistic("B-Parm", item, b + place) + statistic("A-Parm", item, 1.2) for place, item in enumerate(items)
    )
    return encode(USAGE.format(told))


async def test_usage_data_makes_a_pool_that_settings_alone_find_again(platform: Platform) -> None:
    settings = {"engine": "other", "itemIds": ["1", "2"]}
    bare = await platform.post("sections", {"sectionConfiguration": encode(settings)})
    assert "no items" in check_error(bare, 400, "invaliddata")
    imported = await platform.section(settings, qtiUsagedata=usage_of("u1", "u2", "u3"), qtiMetadata="")
    compiled = await platform.section(settings)
    assert compiled == await platform.section(settings, qtiUsagedata=None) != imported
    cat_session = await platform.begin(compiled)
    assert sorted(await cat_session.to_the_end()) == ["u1", "u2", "u3"]
    assert cat_session.variables()["STOP_REASON"] == "no_items"
    newer = await platform.section(settings, qtiUsagedata=usage_of("v1", "v2"))
    again = await platform.section(settings)
    assert len({imported, compiled, newer, again}) == 4
    assert (await platform.begin(again)).items == (await platform.begin(newer)).items
    # The first import once more is the newest.
    assert await platform.section(settings, qtiUsagedata=usage_of("u1", "u2", "u3"), qtiMetadata="") == imported
    assert await platform.section(settings) == compiled


async def test_stored_course_is_a_pool(platform: Platform) -> None:
    catalogue = {
        "skills": [{"id": "s"}],
        "items": [
            *(
                {"id": f"p{n}", "skills": ["s"], "parameters": {"model": "1PL", "b": n - 2}, "tags": ["x"]}
                for n in range(4)
            ),
            {"id": "free", "skills": ["s"]},
        ],
    }
    assert (await platform.client.put("courses/41/catalogue", json=catalogue)).status_code == 200
    for configuration in ("41", " 41\r\n", '"41"', '\ufeff{"pool": "41"}', {"pool": "41", "cut": {"tags": ["x"]}}):
        section = await platform.section(configuration)
        told = (await platform.client.get(f"{BASE}/sections/{section}")).json()
        assert told["items"]["itemIdentifiers"] == ["p0", "p1", "p2", "p3"]
        assert sorted(await (await platform.begin(section)).to_the_end()) == ["p0", "p1", "p2", "p3"]
    scaled = await platform.section({"pool": "41", "scales": [{"id": "ü x", "skill": "s"}], "stop": {"max_items": 1}})
    cat_session = await platform.begin(scaled)
    names = await cat_session.go_on(item_result(cat_session.items[0]))
    assert [name.rpartition("_")[0] for name in names if not name.startswith("MASTERY")] == ["THETA___x", "SE___x"]


async def test_fixed_forms_are_given_in_their_order(platform: Platform) -> None:
    section = await platform.section(FORMS, qtiUsagedata=encode("<usageData/>"), qtiMetadata="")
    told = (await platform.client.get(f"{BASE}/sections/{section}")).json()
    assert told["items"]["itemIdentifiers"] == FORM
    cat_session = await platform.begin(section)
    assert cat_session.reply["nextItems"] == {"itemIdentifiers": FORM, "stageLength": 5}
    await cat_session.go_on(*(item_result(item) for item in FORM[:3]))
    assert cat_session.items == FORM[3:]
    await cat_session.go_on(*(item_result(item, "0") for item in FORM[3:]))
    assert cat_session.variables()["STOP_REASON"] == "max_items"
    both = {"forms": [*FORMS["forms"], {"items": [{"itemId": "other"}]}]}
    several = await platform.section(both)
    given = {tuple((await platform.begin(several, seed=str(seed))).items) for seed in range(2)}
    assert given == {tuple(FORM), ("other",)}


BAD: list[tuple[Any, str]] = [
    ({"pool": "nowhere"}, "pool that is not there"),
    ({"pool": "x", "items": [{"id": "i", "b": 0}]}, "not both"),
    ({"items": []}, "at least 1"),
    ({"items": [{"id": "i", "b": 0}, {"id": "i", "b": 1}]}, "twice"),
    ({"items": [{"id": "i", "b": 99}]}, "at most 10"),
    ({"items": [{"id": "i", "b": 0, "bb": 0}]}, "bb is not a known field"),
    ({"items": [{"id": "i", "thresholds": [0, 1]}]}, "say which model"),
    ({"items": [{"id": "i", "c": 0.2}]}, "needs b"),
    ({"items": [{"id": "i"}]}, "no item with known parameters"),
    ({**INLINE, "stopp": {}}, "stopp"),
    ({**INLINE, "stop": {"max_items": 0}}, "max_items"),
    ({**INLINE, "selection": {"first": ["none"]}}, "no such item"),
    ({**INLINE, "selection": {"randomesque": 5, "exposure_control": True}}, "cannot be held"),
    ({**INLINE, "selection": {"rule": "random", "exposure_control": True}}, "Configuration/selection/exposure_control"),
    ({**INLINE, "cut": {"items": ["none"]}}, "/sectionConfiguration/cut/items/0 no such item"),
    ({"forms": []}, "at least 1"),
    ({"forms": [{"items": [{"itemId": 7}]}]}, "itemId"),
    ("nowhere", "no items"),
    ("", "no items"),
    ("{", "not strict JSON"),
    ('{"pool": "a", "pool": "b"}', "same key twice"),
    ('{"pool": NaN}', "NaN"),
    ("[1]", "no items"),
    ("a\0b", "no items"),
    ("x" * 10_000, "no items"),
]


@pytest.mark.parametrize(("configuration", "reason"), BAD)
async def test_impossible_section_is_refused(platform: Platform, configuration: Any, reason: str) -> None:
    reply = await platform.post("sections", {"sectionConfiguration": encode(configuration)})
    assert reason in check_error(reply, 400, "invaliddata", configuration)
    courses = await app_of(platform.client).state.database.read(lambda db: db.scalar(select(func.count(Course.id))))
    assert courses == 0


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"{}", b'{"sectionConfiguration": null}', b'{"sectionConfiguration": 7}',
        b'{"sectionConfiguration": "*"}', b'{"sectionConfiguration": "YQ", "sectionConfiguration": "YQ"}',
        b'{"sectionConfiguration": "\\u0000"}', b'{"sectionConfiguration": "YQ", "qtiMetadata": NaN}', b"[" * 50_000,
        b'{"sectionConfiguration": "/w"}', b'{"sectionConfiguration": "e30", "qtiUsagedata": "e30"}',
        b'{"sectionConfiguration": "e30", "qtiUsagedata": "!"}', b'{"sectionConfiguration": "\\ud800"}',
    ],
)  # fmt: skip
async def test_hostile_bodies_are_invalid_data(platform: Platform, content: bytes) -> None:
    check_error(await platform.client.post(f"{BASE}/sections", content=content, headers=JSON), 400, "invaliddata")
    section = await platform.section(INLINE)
    cat_session = await platform.begin(section)
    if content != b"{}" and b"sectionConfiguration" not in content:
        check_error(
            await platform.client.post(f"{BASE}/sections/{section}/sessions", content=content, headers=JSON),
            400,
            "invaliddata",
        )
    reply = await platform.client.post(f"{BASE}/{cat_session.path}/results", content=content, headers=JSON)
    check_error(reply, 400, "invaliddata")


async def test_results_of_the_wrong_shape_are_invalid_data(platform: Platform) -> None:
    cat_session = await platform.begin(await platform.section(INLINE))
    good = item_result(cat_session.items[0])
    shapes: list[Any] = [None, True, 7, "x", [], [None], {"a": 1}]
    for member in good:
        for value in shapes:
            reply = await cat_session.send({**good, member: value}, state="v1.9.0123456789abcdef")
            check_error(reply, 400, "invaliddata", (member, value))
    for member in ("identifier", "datestamp", "sessionStatus"):
        check_error(await cat_session.send({k: v for k, v in good.items() if k != member}), 400, "invaliddata")
    for value in shapes:
        check_error(
            await platform.post(f"{cat_session.path}/results", {"assessmentResult": value, "sessionState": "x"}),
            400,
            "invaliddata",
        )
    for state in (
        "",
        "v1.0",
        "v1.1.0123456789abcdef",
        "v1.999999999.0123456789abcdef",
        "x" * 5000,
        cat_session.state + "\n",
    ):
        check_error(
            await cat_session.platform.post(f"{cat_session.path}/results", results(state, good)),
            400,
            "invaliddata",
            state,
        )
    other = await platform.begin(cat_session.section)
    check_error(await cat_session.send(good, state=other.state), 400, "invaliddata")
    assert await count(platform, SessionResponse) == 0
    await cat_session.go_on({**good, "datestamp": "2199-01-01T00:00:00"})
    assert (await described(cat_session))["responses"][0]["occurred_at"] < "2190"


async def test_errors_have_the_form_of_the_standard(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with platform_of(database_url, max_body_bytes=2048) as one:
        app, client = app_of(one.client), one.client
        async with client_of(app) as stranger:
            check_error(await stranger.get(f"{BASE}/sections/s"), 401, "unauthorisedrequest")
        for name, wanted in (("responses:write", "sections"), ("catalogue:write", "sections/s/sessions")):
            key = await make_key(app.state.database, scopes=[scope for scope in SCOPES if scope not in ("admin", name)])
            other = "sections/s/sessions" if wanted == "sections" else "sections"
            async with client_of(app, key) as limited:
                refused = await limited.post(f"{BASE}/{other}", content=b"{}", headers=JSON)
                check_error(refused, 403, "forbidden", name)
        for path in ("sections/nope", "sections/nope/sessions/x/results", "nothing", "sections/" + "x" * 300, ""):
            reply = await client.get(f"{BASE}/{path}".rstrip("/"))
            assert reply.status_code in (400, 404, 405), path
            check_error(reply, reply.status_code, "unknownobject" if reply.status_code == 404 else "invaliddata", path)
        check_error(await client.post(f"{BASE}/sections", content=b" " * 4000, headers=JSON), 413, "invaliddata")
        check_error(await client.post(f"{BASE}/sections", content=b"{}"), 415, "invaliddata")
        reply = await client.put(f"{BASE}/sections", content=b"{}", headers=JSON)
        check_error(reply, 405, "invaliddata")
        assert reply.headers["allow"] == "POST"
        monkeypatch.setattr(admission, "MOST_IN_HAND", 0)
        check_error(await client.get(f"{BASE}/sections/s"), 503, "server_busy")
        assert (await client.get("sessions/s")).json()["code"] == "overloaded"
        monkeypatch.undo()
        monkeypatch.setattr("app.ims_cat.sections.need_section", lambda *_: 1 / 0)
        description = check_error(await client.get(f"{BASE}/sections/s"), 500, "internal_server_error")
        assert "division" not in description
        monkeypatch.undo()
    monkeypatch.setattr(limits, "MINUTE_S", 10_000_000)
    async with platform_of(database_url, requests_per_minute=1) as one:
        assert (await one.client.get(f"{BASE}/sections/s")).status_code == 404
        check_error(await one.client.get(f"{BASE}/sections/s"), 429, "server_busy")
