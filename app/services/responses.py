"""Answers into the log, and at once the outcome of each: the write path.

Everything here runs inside the caller's transaction. The rows of the learners are locked first, in the order of
their ids, so that two transactions can never fold the same learner side by side.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic_core import to_json
from sqlalchemy import Connection, Row

from app.adaptive.filter import fade, step
from app.adaptive.policy import Choices, choose
from app.adaptive.states import ENGINE
from app.adaptive.types import Floats, States
from app.errors import (
    Conflict,
    Fault,
    InvalidScore,
    ProximaError,
    Unavailable,
    UnknownCourse,
    UnknownItem,
    UnknownRecommendation,
)
from app.queries.checkpoints import Place
from app.queries.learners import LearnerRow, find_learners, insert_learners
from app.queries.responses import (
    Entry,
    find_recommendations,
    find_responses,
    insert_recommendations,
    insert_responses,
    save_outcome,
)
from app.services.banks import Bank, bank_at, read_bank
from app.services.folding import (
    Past,
    Trail,
    as_fractions,
    catch_up,
    fold,
    fold_on,
    place_of,
    read_past,
    save_states,
    whole,
)
from app.services.history import read_lives
from app.services.recommendations import (
    Offer,
    beside,
    choose_wanted,
    expiry,
    next_id,
    prefetched,
    recommendation_row,
    seeds,
    tell_wanted,
)
from app.services.reports import (
    DIGITS,
    abilities,
    calibration_id,
    mastery_rows,
    nothing_to_offer,
    recommendation,
    skills_of,
)
from app.services.webhooks import Event, publish, skills_mastered
from app.services.wishes import Wanted, Wishes, from_row, read_needed, to_row, want
from app.times import to_days, to_text


@dataclass(frozen=True, slots=True)
class NewAnswer:
    """An answer as it came in, of a known tenant; times in µs. `dated` if the caller said when it was given.

    `next` is what is wanted of the exercise that follows.
    """

    tenant_id: int
    course_id: str
    id: str
    learner: str
    item: str
    score: float | None
    correct: bool | None
    occurred_at: int
    dated: bool
    received_at: int
    duration_ms: int | None
    recommendation: str | None
    next: Wishes | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What to tell: `created` or `duplicate`, and the outcome as JSON, the same bytes each time."""

    status: str
    outcome: bytes


@dataclass
class Accepted:
    """An answer on its way into the log; `place` is where its result goes, `offered` the recommendation it names."""

    place: int
    answer: NewAnswer
    item: int
    score: float
    offered: Row[Any] | None = None

    def goes_on(self) -> bool:
        """Whether what follows was prefetched with the recommendation, and nothing else is wanted now."""
        return (
            self.answer.next is None and self.offered is not None and bool((self.offered.wishes or {}).get("prefetch"))
        )

    def wishes(self) -> Wishes | None:
        """What is wanted of the exercise that follows."""
        return from_row(self.offered.wishes) if self.offered is not None and self.goes_on() else self.answer.next


def record(db: Connection, answers: Sequence[NewAnswer]) -> list[Recorded | ProximaError]:
    """Append answers and fold them; one result for each, in order. A bad answer is a result too, and stops no other."""
    results: list[Recorded | ProximaError | None] = [None] * len(answers)
    by_course: dict[tuple[int, str], list[int]] = {}
    for place, answer in enumerate(answers):
        by_course.setdefault((answer.tenant_id, answer.course_id), []).append(place)
    for tenant_id, course_id in sorted(by_course):
        places = by_course[tenant_id, course_id]
        try:
            record_in_course(db, tenant_id, course_id, [(place, answers[place]) for place in places], results)
        except UnknownCourse as error:
            for place in places:
                results[place] = error
    return [result for result in results if result is not None]


def record_in_course(
    db: Connection,
    tenant_id: int,
    course_id: str,
    answers: Sequence[tuple[int, NewAnswer]],
    results: list[Recorded | ProximaError | None],
) -> None:
    """`record` for the answers of one course; writes into `results`. Raises `UnknownCourse`."""
    learners = find_learners(db, tenant_id, course_id, {answer.learner for _, answer in answers}, lock=True)
    # Not before the learners are locked: whoever held them may have folded them under a newer bank.
    bank = read_bank(db, tenant_id, course_id)
    fresh, again = sort_out(db, bank, answers, results)
    if fresh:
        strangers = {each.answer.learner for each in fresh.values()} - learners.keys()
        learners |= add_learners(db, bank, strangers)
        fold_fresh(db, bank, learners, list(fresh.values()), results)
    for each in again:
        first = fresh[each.answer.id]
        results[each.place] = repeat_within(each, first, results[first.place])


def fold_fresh(
    db: Connection,
    bank: Bank,
    learners: dict[str, LearnerRow],
    fresh: Sequence[Accepted],
    results: list[Recorded | ProximaError | None],
) -> None:
    """Fold new answers into their learners and write everything that follows."""
    rows = [learners[id_] for id_ in sorted({each.answer.learner for each in fresh})]

    def past(learner_id: str, first: Place) -> Past:
        return read_past(db, bank, {learner_id: first})

    states, trails = catch_up(db, bank, rows)
    counted = states.answers.copy()

    def recent(learner_id: str, wishes: Wishes, moment: int) -> list[Entry]:
        return read_needed(db, bank, learner_id, wishes, moment)

    batch = Batch(bank, rows, states, past, recent, trails)
    for turn in turns(fresh):
        for each, outcome in zip(turn, take_turn(batch, turn), strict=True):
            results[each.place] = Recorded("created", outcome)
    insert_responses(db, batch.responses)
    publish(db, bank.tenant_id, bank.course_id, batch.events)
    insert_recommendations(db, batch.recommendations)
    save_states(db, bank, batch.learners, batch.states, batch.trails, counted)


def check(bank: Bank, offered: Mapping[str, Row[Any]], place: int, answer: NewAnswer) -> Accepted | ProximaError:
    """Whether the course can take this answer; `offered` are the recommendations that exist."""
    item = bank.item_numbers.get(answer.item)
    if item is None:
        return UnknownItem(
            "the course has no such item; add it with PUT …/catalogue",
            [Fault("/item", "no such item in this course")],
        )
    score = score_of(bank, answer)
    try:
        check_score(bank, item, score)
    except InvalidScore as error:
        return error
    wanted = answer.recommendation
    if wanted is not None and (wanted not in offered or offered[wanted].learner_id != answer.learner):
        return UnknownRecommendation(
            "this learner was offered no such recommendation; leave the field out if there was none",
            [Fault("/recommendation", "no such recommendation of this learner")],
        )
    return Accepted(place, answer, item, score, None if wanted is None else offered[wanted])


def score_of(bank: Bank, answer: NewAnswer) -> float:
    """The score of an answer to an item of the bank; `correct` is short for all or nothing."""
    if answer.score is not None:
        return answer.score
    return float(bank.max_scores[bank.item_numbers[answer.item]]) * bool(answer.correct)


def check_score(bank: Bank, item: int, score: float) -> None:
    """Whether the item can have this score. Raises `InvalidScore`."""
    highest = float(bank.max_scores[item])
    if score > highest:
        raise InvalidScore(
            f"the score is higher than the item's maximum, {highest:g}",
            [Fault("/score", f"must be from 0 to {highest:g}")],
        )
    if bank.parameters.items.grades[item] and score != int(score):
        raise InvalidScore("this item is graded: its score is a whole number", [Fault("/score", "must be whole")])


def add_learners(db: Connection, bank: Bank, ids: set[str]) -> dict[str, LearnerRow]:
    """Learners never seen before, made and locked; one that another transaction has just made is locked as it is."""
    if not ids:
        return {}
    blank = {
        "position": 0,
        "theta": 0.0,
        "standard_error": float(np.sqrt(bank.parameters.population.ability_variance)),
        "state": b"",
        "last_occurred_at": None,
        "last_response_id": None,
        "calibration": bank.calibration,
        "revision": bank.revision,
        "engine": ENGINE,
    }
    insert_learners(db, bank.tenant_id, bank.course_id, ids, blank)
    made = find_learners(db, bank.tenant_id, bank.course_id, ids, lock=True)
    if any(row.revision > bank.revision for row in made.values()):
        raise Unavailable("the catalogue has changed at this very moment; send this again")
    return made


def sort_out(
    db: Connection,
    bank: Bank,
    answers: Sequence[tuple[int, NewAnswer]],
    results: list[Recorded | ProximaError | None],
) -> tuple[dict[str, Accepted], list[Accepted]]:
    """The answers that are new, by id, and those that use an id of these once more, open until these are folded.

    What repeats or contradicts what is stored, or cannot be taken, has its place in `results` at once. What is stored
    comes first: a repetition is one however the catalogue has changed since.
    """
    stored = find_responses(db, bank.tenant_id, bank.course_id, {answer.id for _, answer in answers})
    named = {answer.recommendation for _, answer in answers if answer.recommendation is not None}
    offered = find_recommendations(db, bank.tenant_id, bank.course_id, named) if named else {}
    fresh: dict[str, Accepted] = {}
    again: list[Accepted] = []
    told: dict[str, bytes] = {}
    for place, answer in answers:
        if answer.id in stored:
            results[place] = repeat(db, bank, answer, stored[answer.id], told)
            continue
        each = check(bank, offered, place, answer)
        if isinstance(each, ProximaError):
            results[place] = each
        elif fresh.setdefault(answer.id, each) is not each:
            again.append(each)
    return fresh, again


def repeat(
    db: Connection, bank: Bank, answer: NewAnswer, row: Row[Any], told: dict[str, bytes]
) -> Recorded | ProximaError:
    """The first outcome again if the content is the same, else a conflict; `told` is what was told of imported ones."""
    stored = (row.learner_id, row.item_id, row.duration_ms, row.recommendation_id, from_row(row.wishes))
    if content(answer) != (*stored, row.occurred_at if row.dated else None) or not same_score(db, bank, answer, row):
        return conflict()
    if row.outcome is not None:
        return Recorded("duplicate", row.outcome.encode())
    if answer.id not in told:
        told[answer.id] = tell_imported(db, bank, row)
    return Recorded("duplicate", told[answer.id])


def content(answer: NewAnswer) -> tuple[Any, ...]:
    """What makes two answers with one id the same answer, but for the score; a time that we set does not count."""
    asked = (answer.learner, answer.item, answer.duration_ms, answer.recommendation, answer.next)
    return (*asked, answer.occurred_at if answer.dated else None)


def same_score(db: Connection, bank: Bank, answer: NewAnswer, row: Row[Any]) -> bool:
    """Whether an answer has the score that is stored; all or nothing is meant of the maximum at that time."""
    then = bank
    if answer.score is None and score_of(bank, answer) != row.score and bank.revision != row.revision:
        then = bank_at(db, bank.tenant_id, bank.course_id, row.revision, row.calibration)
    return bool(score_of(then, answer) == row.score)


def conflict() -> Conflict:
    """The same id with other content."""
    return Conflict(
        "this id was used for a different answer; use a new id, or regrade the old one to correct it",
        [Fault("/id", "taken by other content")],
    )


def repeat_within(each: Accepted, first: Accepted, told: Recorded | ProximaError | None) -> Recorded | ProximaError:
    """The result of an answer whose id another answer of the same group used first."""
    same = content(each.answer) == content(first.answer) and each.score == first.score
    if not same or not isinstance(told, Recorded):
        return conflict()
    return Recorded("duplicate", told.outcome)


def turns(fresh: Sequence[Accepted]) -> list[list[Accepted]]:
    """Split answers so that each learner has one in a turn, in the order of arrival.

    What is told of an answer is then the same whatever it was grouped with.
    """
    counts: dict[str, int] = {}
    result: list[list[Accepted]] = []
    for each in fresh:
        turn = counts[each.answer.learner] = counts.get(each.answer.learner, -1) + 1
        if turn == len(result):
            result.append([])
        result[turn].append(each)
    return result


@dataclass
class Batch:
    """The learners of one transaction as they are folded, and the rows to be written at its end.

    `past` gives the log of a learner as it was before the transaction, from a place on at least; `recent` the answers
    of it that wishes ask about at a moment.
    """

    bank: Bank
    learners: list[LearnerRow]
    states: States
    past: Callable[[str, Place], Past]
    recent: Callable[[str, Wishes, int], list[Entry]]
    trails: dict[str, Trail] = field(default_factory=dict)
    pending: dict[str, list[Entry]] = field(default_factory=dict)
    responses: list[dict[str, Any]] = field(default_factory=list)
    recommendations: list[dict[str, Any]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


def take_turn(batch: Batch, turn: Sequence[Accepted]) -> list[bytes]:
    """Fold one answer each of different learners, and choose what comes next; the outcomes."""
    bank = batch.bank
    place = {row.id: number for number, row in enumerate(batch.learners)}
    places = np.array([place[each.answer.learner] for each in turn])
    items = np.array([each.item for each in turn])
    before = batch.states[places]
    times = np.array([to_days(each.answer.occurred_at) for each in turn])
    scores = as_fractions(bank, items, [each.score for each in turn])
    after, predicted = step(bank.parameters, before, items, scores, times)
    for number, each in enumerate(turn):
        row = batch.learners[places[number]]
        batch.pending.setdefault(row.id, []).append(
            Entry(row.id, each.answer.id, each.answer.item, each.score, each.answer.occurred_at)
        )
        if is_late(row, each.answer):
            fold_late(batch, row.id, each.answer.id, after, predicted.p, number)
        batch.learners[places[number]] = advance_row(row, each.answer)
    batch.states.put(places, after)
    offers = [follow_up(bank, each, batch.learners[p].position) for each, p in zip(turn, places, strict=True)]
    wanted = [want_next(batch, offer, batch.learners[p]) for offer, p in zip(offers, places, strict=True)]
    # Told is what is known at the moment of the last answer; what the others have faded by then is not kept.
    was, now = (fade(bank.parameters, states, after.seen_at) for states in (before, after))
    drawn = np.array([offer.seed for offer in offers], dtype=np.uint64)
    choices = choose_wanted(bank, now, drawn, wanted) if any(wanted) else choose(bank.parameters, now, drawn)
    told = outcomes(bank, turn, offers, (was, after, now), predicted.p, choices, wanted)
    if bank.watched:
        batch.events += skills_mastered(bank, was, now, offers)
    keep_responses(batch, turn, offers, predicted.p, told)
    made = zip(choices.each(), offers, strict=True)
    batch.recommendations += [recommendation_row(bank, choice, offer) for choice, offer in made if choice.item >= 0]
    return told


def follow_up(bank: Bank, each: Accepted, position: int) -> Offer:
    """The recommendation that follows an answer, before it is chosen."""
    answer, wishes = each.answer, each.wishes()
    name = prefetched(each.offered.id) if each.offered is not None and each.goes_on() else answer.id
    id_, [drawn] = next_id(bank, answer.id), seeds(bank, [name]).tolist()
    avoided = [] if wishes is None else [item for item in wishes.avoid if item in bank.item_numbers]
    expires_at = expiry(wishes, answer.received_at)
    return Offer(id_, answer.learner, answer.id, position, drawn, avoided, answer.received_at, wishes, expires_at)


def want_next(batch: Batch, offer: Offer, row: LearnerRow) -> Wanted | None:
    """What is wanted of the exercise that follows an answer; none for nothing in particular."""
    if offer.wishes is None:
        return None
    moment = row.last_occurred_at or 0
    log = [*batch.recent(row.id, offer.wishes, moment), *batch.pending[row.id]]
    return want(batch.bank, offer.wishes, sorted(log, key=place_of), moment)


def is_late(row: LearnerRow, answer: NewAnswer | Entry) -> bool:
    """Whether the answer belongs before one that was folded already."""
    if row.last_occurred_at is None or row.last_response_id is None:
        return False
    return (answer.occurred_at, answer.id) < (row.last_occurred_at, row.last_response_id)


def fold_late(batch: Batch, learner_id: str, response_id: str, after: States, p: Floats, number: int) -> None:
    """Fold a learner again with an answer that came late: writes the state and the prediction into `after` and `p`."""
    pending = batch.pending[learner_id]
    folded = fold_on(batch.bank, batch.past(learner_id, min(map(place_of, pending))), pending)
    after.put(np.array([number]), folded.states)
    p[number] = folded.p_correct[response_id]
    batch.trails |= folded.trails


def advance_row(row: LearnerRow, answer: NewAnswer) -> LearnerRow:
    """The learner's row after one more answer; the state is packed at the end."""
    last = (row.last_occurred_at, row.last_response_id)
    if not is_late(row, answer):
        last = (answer.occurred_at, answer.id)
    return row._replace(position=row.position + 1, last_occurred_at=last[0], last_response_id=last[1])


def outcomes(
    bank: Bank,
    turn: Sequence[Accepted],
    offers: Sequence[Offer],
    states: tuple[States, States, States],
    p: Floats,
    choices: Choices,
    wanted: Sequence[Wanted | None],
) -> list[bytes]:
    """What is told of each answer, as JSON.

    `states` are those without the answers, as they would be told; and those with them, as they are kept and told.
    """
    before, left, after = states
    rows, skills = skills_of(bank, [each.item for each in turn])
    mastery: list[list[dict[str, Any]]] = [[] for _ in turn]
    for number, told in zip(rows.tolist(), mastery_rows(bank, after, rows, skills, before), strict=True):
        mastery[number].append(told)
    ability = abilities(bank, after)
    result = []
    for number, (each, offer, choice) in enumerate(zip(turn, offers, choices.each(), strict=True)):
        answer, wishes = each.answer, wanted[number]
        if wishes is None:
            following = recommendation(bank, after, choice, number, offer.id)
        else:
            following = tell_wanted(bank, (left, after), choice, number, offer.id, wishes, offer.expires_at)
        outcome = {
            "response": {
                "id": answer.id,
                "learner": answer.learner,
                "item": answer.item,
                "score": each.score,
                "occurred_at": to_text(answer.occurred_at),
                "position": offer.position,
            },
            "p_correct": round(float(p[number]), DIGITS),
            "ability": ability[number],
            "mastery": mastery[number],
            "next": following,
            "calibration": calibration_id(bank.calibration),
        }
        if each.offered is not None:
            outcome["offer"] = compared(each.offered, answer)
        if following is None:
            outcome["reason"] = nothing_to_offer(bank, after, choice, number, wishes)
        if wishes is not None:
            alone, only = slice(number, number + 1), np.array([offer.seed], dtype=np.uint64)
            names = () if following is None else (following["item"],)
            outcome |= beside(bank, after[alone], only, choices[alone], wishes, names)
        result.append(to_json(outcome))
    return result


def compared(offered: Row[Any], answer: NewAnswer) -> dict[str, bool]:
    """Whether an answer is one to the recommendation it names, and whether that held no more when it was given."""
    expired = offered.expires_at is not None and answer.occurred_at > offered.expires_at
    return {"matches": offered.item_id == answer.item, "expired": expired}


def keep_responses(
    batch: Batch, turn: Sequence[Accepted], offers: Sequence[Offer], p: Floats, told: Sequence[bytes]
) -> None:
    """Note the rows of the answers."""
    bank = batch.bank
    for number, (each, offer) in enumerate(zip(turn, offers, strict=True)):
        answer = each.answer
        batch.responses.append(
            {
                "tenant_id": bank.tenant_id,
                "course_id": bank.course_id,
                "id": answer.id,
                "learner_id": answer.learner,
                "position": offer.position,
                "item_id": answer.item,
                "score": each.score,
                "occurred_at": answer.occurred_at,
                "dated": answer.dated,
                "received_at": answer.received_at,
                "duration_ms": answer.duration_ms,
                "recommendation_id": answer.recommendation,
                "wishes": to_row(answer.next),
                "calibration": bank.calibration,
                "revision": bank.revision,
                "engine": ENGINE,
                "p_correct": float(p[number]),
                "outcome": told[number].decode(),
            }
        )


def tell_imported(db: Connection, bank: Bank, row: Row[Any]) -> bytes:
    """The outcome of an answer that was imported and so was told to nobody: as if it had come alone, then.

    From here on it is told: the outcome is kept, and what it recommends.
    """
    [life] = read_lives(db, bank, list(find_learners(db, bank.tenant_id, bank.course_id, [row.learner_id]).values()))
    then = bank_at(db, bank.tenant_id, bank.course_id, row.revision, row.calibration)
    earlier = life.entries(row.position - 1)
    states = fold(then, [row.learner_id], earlier).states
    rows = [life.row_at(row.position - 1)]
    # Nothing was wanted of what follows an imported answer.
    batch = Batch(then, rows, states, lambda *_: whole([row.learner_id], earlier), lambda *_: [])
    [outcome] = take_turn(batch, [Accepted(0, stored_answer(then, row), then.item_numbers[row.item_id], row.score)])
    save_outcome(db, bank.tenant_id, bank.course_id, row.id, outcome.decode())
    insert_recommendations(db, batch.recommendations)
    return outcome


def stored_answer(bank: Bank, row: Row[Any]) -> NewAnswer:
    """An answer of the log as it came in."""
    return NewAnswer(
        tenant_id=bank.tenant_id,
        course_id=bank.course_id,
        id=row.id,
        learner=row.learner_id,
        item=row.item_id,
        score=row.score,
        correct=None,
        occurred_at=row.occurred_at,
        dated=row.dated,
        received_at=row.received_at,
        duration_ms=row.duration_ms,
        recommendation=row.recommendation_id,
        next=from_row(row.wishes),
    )
