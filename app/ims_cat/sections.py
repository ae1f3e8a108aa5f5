"""1EdTech CAT 1.0 over the sessions of this service: sections, their sessions, results.

A section is a pool of items, which is a course or a part of one, and what all its sessions agree on. The reply
of each exchange is stored with the version of the session, which its `sessionState` names: the same results sent again
get the same bytes. The row of the session is locked before anything is read.
"""

import hashlib
import re
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic_core import to_json
from sqlalchemy import Connection

from app.adaptive.tracing.mastery import MASTERY_LINE
from app.core.errors import Fault, Invalid, InvalidScore, NotOffered, SessionFinished, UnknownSection
from app.core.times import to_text
from app.queries import sections as rows
from app.queries import sessions as session_rows
from app.queries.catalogue import find_course
from app.services import sessions
from app.services.catalogue import need_course, upsert
from app.services.item_pools import ItemPool, check_agreement, read_pool
from app.services.session_agreement import AgreedPoolFilter, AgreedPrior, AgreedStop, SessionAgreement, decode_agreement

RESERVED_PREFIX = "cat-"
STATE = re.compile(r"v1\.([0-9]{1,9})\.[0-9a-f]{16}", re.ASCII)
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]", re.ASCII)
RESULTS = "/assessmentResult/itemResult"
CONFIGURATION = "/sectionConfiguration"
# What a configuration calls the part of a course that is the pool.
CUT = "cut"

Json = dict[str, Any]


@dataclass(frozen=True)
class NewSection:
    """A section as it came in.

    Its items are those of `course`, which must exist if it is `must_exist`; else `items`, as a catalogue has them; else
    those of the last section with the same configuration; else `fallback`. `settings` has the `plan` of its sessions,
    the `forms` if their order is fixed, whether it has a `prior` of its own, `lookAhead`, `skipped` and `endOfTest`.
    """

    posted: str
    configuration: bytes
    settings: Json
    course: str | None = None
    must_exist: bool = False
    items: list[Json] | None = None
    fallback: list[Json] | None = None


@dataclass(frozen=True)
class NewSession:
    """The prior of a learner. An `estimate` counts only if there is neither a `mean` nor a prior of the section."""

    learner: str | None = None
    mean: float | None = None
    sd: float | None = None
    estimate: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class SubmittedResult:
    """The result of a completed item: its SCORE and the ends of its scale, if they were sent; where they stand."""

    pointer: str
    item: str
    occurred_at: int
    score: float | None
    lowest: float | None
    highest: float | None


def create_section(db: Connection, tenant_id: int, new: NewSection, now: int) -> str:
    """Create a section and return its id; equal content is one section. Raises `Invalid` if no session can use it."""
    course_id = _resolve_item_course(db, tenant_id, new, now)
    _check_section(db, tenant_id, course_id, new.settings)
    digest = hashlib.sha256(f"{new.posted}\0{course_id}".encode()).hexdigest()
    known = rows.find_same_section(db, tenant_id, digest)
    if known is not None:
        rows.update_section(db, tenant_id, known.id, posted_at=now)
        return known.id
    section = rows.SectionRow(
        tenant_id=tenant_id,
        id=f"s-{uuid.uuid4().hex}",
        course_id=course_id,
        digest=digest,
        configuration_digest=_content_digest(new.configuration),
        posted=new.posted,
        settings=new.settings,
        posted_at=now,
        ended_at=None,
    )
    rows.insert_section(db, section)
    return section.id


def _content_digest(content: bytes) -> str:
    """Return the SHA-256 of some content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _resolve_item_course(db: Connection, tenant_id: int, new: NewSection, now: int) -> str:
    """Return the course that has the items. Raises `Invalid` if there are none."""
    if new.course is not None and find_course(db, tenant_id, new.course) is not None:
        return new.course
    if new.course is not None and new.must_exist:
        raise Invalid("the section names a pool that is not there; make it with PUT /v1/courses/{course}/catalogue")
    if new.items:
        return _store_items(db, tenant_id, new.items, now)
    # A platform that compiles a test posts its settings again, without the usage data it sent at the import.
    earlier = rows.find_latest_section(db, tenant_id, _content_digest(new.configuration))
    if earlier is not None:
        return earlier.course_id
    if new.fallback:
        return _store_items(db, tenant_id, new.fallback, now)
    raise Invalid("the section has no items: name a pool, list items, or send usage data with their parameters")


def _store_items(db: Connection, tenant_id: int, items: list[Json], now: int) -> str:
    """Store the items that came with a section in a course named by their content; return it."""
    skills = sorted({skill for item in items for skill in item["skills"]})
    body = {"skills": [{"id": skill} for skill in skills], "items": items}
    course_id = RESERVED_PREFIX + _content_digest(to_json(body))[:40]
    if find_course(db, tenant_id, course_id) is None:
        upsert(db, tenant_id, course_id, body, now)
    return course_id


def _check_section(db: Connection, tenant_id: int, course_id: str, settings: Json) -> None:
    """Raise `Invalid`, by the members of the configuration, if no session could start with it."""
    agreement = _make_agreement(settings, 0)
    pool = _read_current_pool(db, tenant_id, course_id, agreement)
    try:
        check_agreement(db, tenant_id, course_id, agreement, pool)
    except Invalid as error:
        raise Invalid(error.detail, [_to_configuration_fault(settings, fault) for fault in error.faults]) from error
    if not pool.item_ids:
        raise Invalid("there is no item with known parameters in the pool of this section")


def _to_configuration_fault(settings: Json, fault: Fault) -> Fault:
    """Return a fault of an agreement with the member of the configuration that it comes from."""
    if settings["forms"]:
        return Fault(f"{CONFIGURATION}/forms", fault.detail)
    _, part, *rest = fault.pointer.split("/")
    return Fault("/".join([CONFIGURATION, CUT if part == "pool" else part, *rest]), fault.detail)


def _read_current_pool(db: Connection, tenant_id: int, course_id: str, agreement: SessionAgreement) -> ItemPool:
    """Return the items of an agreement as the course has them now."""
    return read_pool(db, tenant_id, course_id, need_course(db, tenant_id, course_id).revision, agreement)


def _make_agreement(settings: Json, seed: int) -> SessionAgreement:
    """Return what a session agrees on; of several fixed forms the seed chooses one."""
    agreement = decode_agreement(settings["plan"])
    forms = settings["forms"]
    if not forms:
        return agreement
    form = tuple(forms[seed % len(forms)])
    return replace(
        agreement,
        pool=AgreedPoolFilter(items=form),
        selection=replace(agreement.selection, first=form),
        stop=AgreedStop(max_items=len(form)),
    )


def read_section(db: Connection, tenant_id: int, section_id: str) -> bytes:
    """Return the section as it was posted, and the items it draws on, as JSON. Raises `UnknownSection`."""
    section = need_section(db, tenant_id, section_id)
    forms = section.settings["forms"]
    items: Sequence[str] = list(dict.fromkeys(item for form in forms for item in form))
    if not forms:
        items = _read_current_pool(db, tenant_id, section.course_id, _make_agreement(section.settings, 0)).item_ids
    return b'{"items":%b,"section":%b}' % (to_json({"itemIdentifiers": items}), section.posted.encode())


def end_section(db: Connection, tenant_id: int, section_id: str, now: int) -> None:
    """End a section: it and its sessions are unknown from now on. Raises `UnknownSection`."""
    need_section(db, tenant_id, section_id)
    rows.update_section(db, tenant_id, section_id, digest=None, ended_at=now)


def _unknown_section() -> UnknownSection:
    """Return the same error for a missing section or session and for one of another tenant."""
    return UnknownSection("there is no such section or session; it was deleted, or left alone for longer than it lives")


def need_section(db: Connection, tenant_id: int, section_id: str) -> rows.SectionRow:
    """Return a section that has not ended. Raises `UnknownSection`."""
    section = rows.find_section(db, tenant_id, section_id)
    if section is None:
        raise _unknown_section()
    return section


def _need_cat_session(
    db: Connection, tenant_id: int, section_id: str, session_id: str
) -> tuple[rows.SectionRow, session_rows.SessionRow]:
    """Return a section and a session of it, whose row is locked. Raises `UnknownSection`."""
    section = need_section(db, tenant_id, section_id)
    session = session_rows.find_session(db, tenant_id, session_id, lock=True)
    if session is None or rows.find_section_session(db, tenant_id, section_id, session_id) is None:
        raise _unknown_section()
    return section, session


def start_cat_session(db: Connection, tenant_id: int, section_id: str, new: NewSession, now: int) -> bytes:
    """Start a session and offer its first items, as JSON. Raises `UnknownSection`."""
    section = need_section(db, tenant_id, section_id)
    seed = secrets.randbits(53) if new.seed is None else new.seed
    agreement = _make_agreement(section.settings, seed)
    prior = _choose_prior(agreement.prior, new, has_own=section.settings["prior"])
    agreed = replace(agreement, learner=new.learner, seed=seed, prior=prior)
    session_id = f"t-{uuid.uuid4().hex}"
    sessions.start_session(db, tenant_id, section.course_id, session_id, agreed, now)
    rows.insert_section_session(db, rows.SectionSessionRow(tenant_id, session_id, section_id, None))
    offered = _list_offered_items(db, section, sessions.need_session(db, tenant_id, session_id))
    reply = to_json({"sessionIdentifier": session_id, **_describe_next_items(section, session_id, 0, offered)})
    rows.insert_exchange(db, rows.ExchangeRow(tenant_id, session_id, 0, None, offered, reply.decode()))
    return reply


def _choose_prior(prior: AgreedPrior, new: NewSession, *, has_own: bool) -> AgreedPrior:
    """Return the prior of a session: the learner's, or that of the section, which `has_own` if it was given."""
    mean = new.estimate if new.mean is None and not has_own else new.mean
    return AgreedPrior(prior.mean if mean is None else mean, prior.sd if new.sd is None else new.sd)


def end_cat_session(db: Connection, tenant_id: int, section_id: str, session_id: str, now: int) -> None:
    """End a session; its results stay stored. Raises `UnknownSection`."""
    _need_cat_session(db, tenant_id, section_id, session_id)
    sessions.end_session(db, tenant_id, session_id, now)
    rows.end_section_session(db, tenant_id, session_id, now)


def submit_results(
    db: Connection,
    tenant_id: int,
    section_id: str,
    session_id: str,
    state: str | None,
    results: Sequence[SubmittedResult],
    now: int,
) -> bytes:
    """Record results, and return the next items and the test result, as JSON.

    Without a state they are for the last reply. Raises `UnknownSection`; `Invalid` for a state that was left;
    `NotOffered`; `InvalidScore`.
    """
    section, session = _need_cat_session(db, tenant_id, section_id, session_id)
    if now > sessions.expires_at(session):
        raise _unknown_section()
    latest = rows.need_exchange(db, tenant_id, session_id)
    version = latest.version if state is None else _decode_session_state(session_id, state)
    following = latest if state is None else rows.find_exchange(db, tenant_id, session_id, version + 1)
    digest = _content_digest(to_json(sorted((result.item, result.score, result.highest) for result in results)))
    if following is not None and following.digest == digest:
        return following.reply.encode()
    if version not in (latest.version, latest.version - 1):
        raise _stale_state()
    base = latest if version == latest.version else rows.need_exchange(db, tenant_id, session_id, version)
    fresh = _select_new_results(db, session, base.offered, results)
    if not fresh and version < latest.version:
        return latest.reply.encode()
    if _record_results(db, section, session, fresh, base.offered, now) or _has_moved(session, latest.offered):
        return _store_exchange(db, section, session_id, latest.version + 1, digest, now)
    return to_json(_build_reply(db, section, session_id, latest.version, now, latest.offered))


def _has_moved(session: session_rows.SessionRow, offered: Sequence[str]) -> bool:
    """Return whether a session was answered or ended at `/v1/sessions` since it offered these items here."""
    return (session.offer["item"] if session.offer else None) != next(iter(offered), None)


def _stale_state() -> Invalid:
    """Return the error for a state that the session has left, or never had."""
    return Invalid("this sessionState is not the last one of this session", [Fault("/sessionState", "is stale")])


def _encode_session_state(session_id: str, version: int) -> str:
    """Encode the state of a session after so many exchanges."""
    return f"v1.{version}.{hashlib.blake2b(f'{session_id} {version}'.encode(), digest_size=8).hexdigest()}"


def _decode_session_state(session_id: str, state: str) -> int:
    """Return the exchange that a state stands for. Raises `Invalid` for one that is not of this session."""
    match = STATE.fullmatch(state)
    if match is None or _encode_session_state(session_id, int(match[1])) != state:
        raise _stale_state()
    return int(match[1])


def _select_new_results(
    db: Connection, session: session_rows.SessionRow, offered: Sequence[str], results: Sequence[SubmittedResult]
) -> list[tuple[SubmittedResult, float]]:
    """Return the results that are new, with their scores, in the order in which the items were offered.

    Those that were recorded before are skipped, as some platforms send all they have; `Invalid` if they differ. Raises
    `NotOffered` unless the others are the first of what was offered and not yet answered; `InvalidScore`.
    """
    test = sessions.read_test(db, session)
    responses = session_rows.list_session_responses(db, session.tenant_id, session.id)
    answered = {row.item_id: row.score for row in responses}
    scores = {result.item: rescale_score(test.pool, result) for result in results}
    for item, score in scores.items():
        if answered.get(item, score) != score:
            raise Invalid("an item was answered before, with another score", [Fault(RESULTS, "is not what was sent")])
    expected = [item for item in offered if item not in answered]
    fresh = {result.item: result for result in results if result.item not in answered}
    leading = expected[: len(fresh)]
    if fresh.keys() != set(leading):
        raise NotOffered(
            "the results are not those of the first items offered; present them in the order in which they were told",
            [Fault(RESULTS, "is not of what was offered")],
        )
    return [(fresh[item], scores[item]) for item in leading]


def rescale_score(pool: ItemPool, result: SubmittedResult) -> float:
    """Map a SCORE to our item's scale: the nearest category, the higher one half-way; none and below 0 are 0.

    Raises `InvalidScore` for more than the highest and for a range without numbers in it, `NotOffered` for an item that
    the pool does not have.
    """
    item = pool.index_by_id.get(result.item)
    if item is None:
        raise NotOffered("there is a result for an item that the pool does not have", [Fault(RESULTS, "is unknown")])
    max_score, lowest = pool.max_scores[item], result.lowest or 0.0
    highest = max_score if result.highest is None else result.highest
    if highest <= lowest:
        raise InvalidScore(
            f"the range of a SCORE is empty: its minimum, {lowest:g}, is not below its maximum, {highest:g}; send "
            "normalMinimum below normalMaximum, or neither (then they are 0 and the maxScore of the item)",
            [Fault(result.pointer, "normalMinimum must be below normalMaximum")],
        )
    fraction = max(((result.score or 0.0) - lowest) / (highest - lowest), 0.0) if result.score is not None else 0.0
    if fraction > 1:
        raise InvalidScore(
            f"a SCORE is higher than {highest:g}; send normalMaximum, or give the item its maxScore",
            [Fault(result.pointer, f"SCORE must be from {lowest:g} to {highest:g}")],
        )
    max_category = int(pool.pool.max_category[item])
    return int(fraction * max_category + 0.5) * max_score / max_category


def _record_results(
    db: Connection,
    section: rows.SectionRow,
    session: session_rows.SessionRow,
    fresh: Sequence[tuple[SubmittedResult, float]],
    offered: Sequence[str],
    now: int,
) -> int:
    """Record results one after the other, and return how many counted: those after the end of the test do not."""
    for position, (result, score) in enumerate(fresh):
        response = sessions.NewSessionResponse(
            # An item is given once, so it names its answer.
            id=result.item,
            item=result.item,
            score=score,
            correct=None,
            occurred_at=min(result.occurred_at, now),
            has_timestamp=True,
            received_at=now,
            duration_ms=None,
            skipped=result.score is None and section.settings["skipped"] == "ignore",
        )
        try:
            sessions.record_session_response(db, session.tenant_id, session.id, response, offered)
        except SessionFinished:
            return position
    return len(fresh)


def _store_exchange(
    db: Connection, section: rows.SectionRow, session_id: str, version: int, digest: str, now: int
) -> bytes:
    """Store the reply to new results, and return it."""
    offered = _list_offered_items(db, section, sessions.need_session(db, section.tenant_id, session_id))
    reply = to_json(_build_reply(db, section, session_id, version, now, offered))
    rows.insert_exchange(db, rows.ExchangeRow(section.tenant_id, session_id, version, digest, offered, reply.decode()))
    return reply


def _list_offered_items(db: Connection, section: rows.SectionRow, session: session_rows.SessionRow) -> list[str]:
    """Return the item to present, and those to go on with offline, best first; all that are left of a form."""
    if session.offer is None:
        return []
    count = (
        len(decode_agreement(session.plan).pool.items or ())
        if section.settings["forms"]
        else 1 + section.settings["lookAhead"]
    )
    first: str = session.offer["item"]
    ahead = sessions.list_lookahead_items(db, session, count) if count > 1 else ()
    return list(dict.fromkeys([first, *ahead]))[:count]


def _build_reply(
    db: Connection, section: rows.SectionRow, session_id: str, version: int, now: int, offered: Sequence[str]
) -> Json:
    """Return the next items and the test result."""
    known = sessions.describe_session(db, section.tenant_id, session_id, now)
    result = {"identifier": section.id, "datestamp": to_text(now), "outcomeVariables": _outcome_variables(known)}
    return {**_describe_next_items(section, session_id, version, offered), "assessmentResult": {"testResult": result}}


def _describe_next_items(section: rows.SectionRow, session_id: str, version: int, offered: Sequence[str]) -> Json:
    """Return the next items, and the state to send with their results."""
    state = {"sessionState": _encode_session_state(session_id, version)}
    if not offered and section.settings["endOfTest"] == "omit":
        return state
    stage = len(offered) if section.settings["forms"] else min(len(offered), 1)
    return {"nextItems": {"itemIdentifiers": list(offered), "stageLength": stage}, **state}


def _outcome_variables(known: Json) -> list[Json]:
    """Return θ and its standard error, for each of several scales; why the test ended; the mastery of skills."""
    scales = known.get("abilities") or [known["ability"]]
    entries = [
        _outcome_variable(
            name + (f"_{_to_qti_identifier(estimate['scale'])}" if "scale" in estimate else ""),
            "float",
            str(estimate[field]),
        )
        for estimate in scales
        for name, field in (("THETA", "theta"), ("SE", "standard_error"))
    ]
    if known["stop"] is not None:
        entries.append(_outcome_variable("STOP_REASON", "identifier", known["stop"]["code"]))
    bounds = {"normalMaximum": 1, "normalMinimum": 0, "masteryValue": MASTERY_LINE}
    mastery = [(f"MASTERY_{_to_qti_identifier(row['skill'])}", str(row["mastery"])) for row in known["mastery"]]
    return entries + [{**_outcome_variable(name, "float", value), **bounds} for name, value in mastery]


def _outcome_variable(name: str, base_type: str, value: str) -> Json:
    """Return an outcome variable. Its type is in the value too: some platforms look for it only there."""
    values = [{"baseType": base_type, "value": value}]
    return {"identifier": name, "cardinality": "single", "baseType": base_type, "value": values}


def _to_qti_identifier(name: str) -> str:
    """Return a name as a QTI identifier; one that had to be altered has a digest, so that no two are alike."""
    plain = NOT_IN_NAMES.sub("_", name)
    return plain if plain == name else f"{plain}_{_content_digest(name.encode())[:6]}"
