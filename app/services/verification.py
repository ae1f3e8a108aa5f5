"""Is everything that was kept and told what the log says? Every learner's history is lived through once more.

The entries of a page of learners are taken in the order of their arrival, with the calibration and the catalogue that
were in force then, by the same functions that took them the first time.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from sqlalchemy import Connection, Row

from app.adaptive.filter import initial
from app.adaptive.replay import replay_marked
from app.adaptive.states import ENGINE, pack
from app.adaptive.types import Booleans
from app.queries.checkpoints import Kept, Place, list_checkpoints
from app.queries.learners import LearnerRow, find_learners, page_learners
from app.queries.responses import Entry, find_recommendations, page_offers
from app.queries.sessions import page_sessions
from app.services.banks import Bank, Shelf, bank_at, read_bank
from app.services.folding import Past, as_log, at, fold, good_version, is_stale, place_of, refold, whole
from app.services.history import Life, read_lives
from app.services.recommendations import Offer, choose_wanted, recommendation_row
from app.services.responses import Accepted, Batch, stored_answer, take_turn
from app.services.sessions import differences
from app.services.wishes import NO_WISHES, from_row, want

PAGE = 200
COMPARED = (
    "item_id",
    "skill_id",
    "code",
    "terms",
    "p_correct",
    "propensity",
    "seed",
    "avoided",
    "wishes",
    "position",
    "calibration",
    "expires_at",
)
Version = tuple[int, int | None]


@dataclass
class Verified:
    """How much was compared, and the differences found, in words."""

    learners: int = 0
    responses: int = 0
    recommendations: int = 0
    sessions: int = 0
    stale: int = 0
    other_engine: int = 0
    differences: list[str] = field(default_factory=list)

    def add(self, part: "Verified") -> None:
        """Count a part in."""
        self.learners += part.learners
        self.responses += part.responses
        self.recommendations += part.recommendations
        self.sessions += part.sessions
        self.stale += part.stale
        self.other_engine += part.other_engine
        self.differences += part.differences


@dataclass
class Strand:
    """The page of learners under one version; `current` marks those whose state is that of the last position."""

    batch: Batch
    current: Booleans


def verify_page(
    db: Connection, tenant_id: int, course_id: str, after: str, past: Shelf[Bank]
) -> tuple[Verified, str | None]:
    """Compare a page of learners; the result, and the last learner of the page (none at the end).

    `past` keeps the banks of former versions from page to page.
    """
    result = Verified()
    rows = page_learners(db, tenant_id, course_id, after, PAGE)
    if not rows:
        return result, None
    bank = read_bank(db, tenant_id, course_id)
    compare_snapshots(db, bank, rows, result)
    lives = read_lives(db, bank, rows)
    compare_positions(lives, result)
    compare_checkpoints(db, bank, lives, result)
    strands: dict[Version, Strand] = {}
    for turn in range(1, max(life.end for life in lives) + 1):
        for version, places in arrivals(lives, turn).items():
            if version not in strands:
                strands[version] = new_strand(bank_at(db, tenant_id, course_id, *version, past), lives)
            relive(db, strands[version], lives, places, turn, result)
            for other, strand in strands.items():
                strand.current[places] = other == version
        passed = [place for place, life in enumerate(lives) if is_passed_over(life, turn)]
        result.other_engine += sum(turn in lives[place].responses for place in passed)
        for strand in strands.values():
            strand.current[passed] = False
    result.learners = len(rows)
    return result, rows[-1].id


def is_passed_over(life: Life, turn: int) -> bool:
    """Whether the entry at a position is a correction, or an answer that another engine judged."""
    return turn in life.corrections or (turn in life.responses and life.responses[turn].engine != ENGINE)


def compare_snapshots(db: Connection, bank: Bank, rows: Sequence[LearnerRow], result: Verified) -> None:
    """Snapshots against the fold of the log; a stale one is never read, only counted."""
    good = [row for row in rows if not is_stale(bank, row)]
    result.stale += len(rows) - len(good)
    if not good:
        return
    expected = pack(bank.parameters, refold(db, bank, [row.id for row in good]).states)
    blank = pack(bank.parameters, initial(bank.parameters, 1))[0]
    for row, state in zip(good, expected, strict=True):
        if (row.state or blank) != state:
            result.differences.append(f"learner {row.id}: the snapshot is not the fold of the log")


def compare_positions(lives: Sequence[Life], result: Verified) -> None:
    """Where snapshots say that the log ends against where it does."""
    for life in lives:
        if life.row != life.row_at(life.end):
            result.differences.append(f"learner {life.row.id}: the snapshot is not of the end of the log")


def compare_checkpoints(db: Connection, bank: Bank, lives: Sequence[Life], result: Verified) -> None:
    """Checkpoints against the fold of the log up to their places; stale ones are never read."""
    kept: dict[str, list[Kept]] = defaultdict(list)
    ids = [life.row.id for life in lives]
    for row in list_checkpoints(db, bank.tenant_id, bank.course_id, good_version(bank), ids):
        kept[row.learner_id].append(row)
    for life in [life for life in lives if life.row.id in kept]:
        rows = kept[life.row.id]
        entries = [entry for entry in life.entries(life.end) if entry.score is not None]
        places = [place_of(entry) for entry in entries]
        ends = np.array([bisect_right(places, row[1:3]) for row in rows], dtype=np.int64)
        marks = np.zeros(len(entries) + 1, dtype=np.bool_)
        marks[ends] = True
        _, _, states = replay_marked(bank.parameters, as_log(bank, entries, [len(entries)]), marks[1:])
        expected = [pack(bank.parameters, initial(bank.parameters, 1))[0]] if marks[0] else []
        expected += pack(bank.parameters, states)
        for row, place in zip(rows, np.unique(ends, return_inverse=True)[1].tolist(), strict=True):
            if row.state != expected[place]:
                result.differences.append(f"learner {life.row.id}: a checkpoint is not the fold of the log")


def arrivals(lives: Sequence[Life], turn: int) -> dict[Version, list[int]]:
    """The learners who answered at their position `turn`, by the version their answer was judged under.

    What another engine told cannot be told again by this one.
    """
    groups: dict[Version, list[int]] = defaultdict(list)
    for place, life in enumerate(lives):
        if turn in life.responses and life.responses[turn].engine == ENGINE:
            response = life.responses[turn]
            groups[response.revision, response.calibration].append(place)
    return groups


def new_strand(bank: Bank, lives: Sequence[Life]) -> Strand:
    """A page of learners at the beginning of their lives."""
    log = {life.row.id: life for life in lives}
    rows = [life.row_at(0) for life in lives]
    states = initial(bank.parameters, len(rows))
    past = partial(past_of, log, 0)
    batch = Batch(bank, rows, states, past, partial(recent_of, log, 0))
    return Strand(batch, np.zeros(len(rows), dtype=np.bool_))


def relive(
    db: Connection, strand: Strand, lives: Sequence[Life], places: Sequence[int], turn: int, result: Verified
) -> None:
    """Take the answers at position `turn` once more and compare what follows from them."""
    batch = strand.batch
    behind = [place for place in places if not strand.current[place]]
    if behind:
        ids = [lives[place].row.id for place in behind]
        entries = [entry for place in behind for entry in lives[place].entries(turn - 1)]
        batch.states.put(np.array(behind), fold(batch.bank, ids, entries).states)
        for place in behind:
            batch.learners[place] = lives[place].row_at(turn - 1)
    log = {lives[place].row.id: lives[place] for place in places}
    batch.past, batch.recent = partial(past_of, log, turn - 1), partial(recent_of, log, turn - 1)
    batch.pending.clear()
    batch.responses.clear()
    batch.recommendations.clear()
    responses = [lives[place].responses[turn] for place in places]
    named = {response.recommendation_id for response in responses if response.recommendation_id is not None}
    offered = find_recommendations(db, batch.bank.tenant_id, batch.bank.course_id, named) if named else {}
    answers = [accept(batch.bank, response, offered) for response in responses]
    told = take_turn(batch, answers)
    for place, made, outcome in zip(places, batch.responses, told, strict=True):
        kept = lives[place].responses[turn]
        if kept.p_correct != made["p_correct"]:
            result.differences.append(f"response {kept.id}: another prediction follows from the log")
        if kept.outcome is not None and kept.outcome.encode() != outcome:
            result.differences.append(f"response {kept.id}: another outcome follows from the log")
    result.responses += len(places)
    imported = {lives[place].responses[turn].id for place in places if lives[place].responses[turn].outcome is None}
    compare_recommendations(db, batch, imported, result)


def accept(bank: Bank, response: Row[Any], offered: Mapping[str, Row[Any]]) -> Accepted:
    """A stored answer as it was taken; `offered` are the recommendations that were named."""
    answer, named = stored_answer(bank, response), offered.get(response.recommendation_id)
    return Accepted(0, answer, bank.item_numbers[response.item_id], response.score, named)


def past_of(lives: Mapping[str, Life], position: int, learner_id: str, _: Place) -> Past:
    """The whole log of a learner as it was at a position."""
    return whole([learner_id], lives[learner_id].entries(position))


def recent_of(lives: Mapping[str, Life], position: int, learner_id: str, *_: Any) -> list[Entry]:
    """The answers of a learner that counted at a position, in the order of the fold."""
    return counted(lives[learner_id], position)


def counted(life: Life, position: int) -> list[Entry]:
    """The answers of a life that were not voided at a position."""
    return [entry for entry in life.entries(position) if entry.score is not None]


def compare_recommendations(db: Connection, batch: Batch, imported: set[str], result: Verified) -> None:
    """What followed an answer against what is kept of it; after imported answers nothing was offered."""
    made = {row["id"]: row for row in batch.recommendations if row["response_id"] not in imported}
    if not made:
        return
    kept = find_recommendations(db, batch.bank.tenant_id, batch.bank.course_id, set(made))
    for id_, row in made.items():
        same = id_ in kept and all(getattr(kept[id_], name) == row[name] for name in COMPARED)
        if not same:
            result.differences.append(f"recommendation {id_}: another choice follows from the log")
    result.recommendations += len(made)


def verify_offers(
    db: Connection, tenant_id: int, course_id: str, after: str, past: Shelf[Bank]
) -> tuple[Verified, str | None]:
    """Compare a page of the recommendations that were asked for; the result, and the last id (none at the end)."""
    result = Verified()
    offers = page_offers(db, tenant_id, course_id, after, PAGE)
    if not offers:
        return result, None
    bank = read_bank(db, tenant_id, course_id)
    rows = find_learners(db, tenant_id, course_id, {offer.learner_id for offer in offers})
    lives = {life.row.id: life for life in read_lives(db, bank, list(rows.values()))}
    for offer in offers:
        if offer.engine != ENGINE:
            continue
        then = bank_at(db, tenant_id, course_id, offer.revision, offer.calibration, past)
        if not same_offer(then, lives[offer.learner_id], offer):
            result.differences.append(f"recommendation {offer.id}: another choice follows from the log")
    result.recommendations = len(offers)
    return result, offers[-1].id


def same_offer(bank: Bank, life: Life, offer: Row[Any]) -> bool:
    """Whether the same would be offered again, for the same reasons and with the same chance."""
    states = fold(bank, [life.row.id], life.entries(offer.position)).states
    then, wishes = at(bank, states, offer.offered_at), from_row(offer.wishes) or NO_WISHES
    wanted = want(bank, wishes, counted(life, offer.position), offer.offered_at, offer.avoided)
    [choice] = choose_wanted(bank, then, np.array([offer.seed], dtype=np.uint64), [wanted]).each()
    if choice.item < 0:
        return False
    asked = (offer.avoided, offer.offered_at, from_row(offer.wishes), offer.expires_at)
    again = Offer(offer.id, life.row.id, None, offer.position, offer.seed, *asked)
    made = recommendation_row(bank, choice, again)
    return all(getattr(offer, name) == made[name] for name in COMPARED)


def verify_sessions(
    db: Connection, tenant_id: int, course_id: str, after: str, _: Shelf[Bank]
) -> tuple[Verified, str | None]:
    """Hold a page of the adaptive tests once more; the result, and the last id (none at the end)."""
    result = Verified()
    sessions = page_sessions(db, tenant_id, course_id, after, PAGE)
    if not sessions:
        return result, None
    for session in sessions:
        if session.engine == ENGINE:
            result.differences += differences(db, session)
        else:
            result.other_engine += 1
    result.sessions = len(sessions)
    return result, sessions[-1].id
