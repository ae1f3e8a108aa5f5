"""What screening a course says: items that lie and learners who do not try, named with what that rests on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from app.adaptive.calibration.fit import highest_forget
from app.adaptive.calibration.screening import Screening, screen_log
from app.adaptive.parameters import Skills
from app.adaptive.response_log import Log
from app.queries.responses import read_all_entries
from app.services.course_model import CourseModel, read_course_model
from app.services.replay import course_log

MAX_ITEMS = 100
# As many as one request may leave out.
MAX_LEARNERS = 1000
# If more of the items with answers have moved, a person should know why before the calibration is put in force.
MANY_CHANGED = 0.5
MIN_CHANGED = 5
# Of its bound, and of the skills: from there on forgetting is called fast.
AT_BOUND, MANY_AT_BOUND = 0.99, 0.5
LITTLE_LEARNING = 0.08

Json = dict[str, Any]


@dataclass(frozen=True)
class ScreenedCourse:
    """A course as it was screened: its report, and the warnings of it."""

    report: Json
    warnings: list[Json]


def read_course_log(db: Connection, tenant_id: int, course_id: str) -> tuple[CourseModel, Log, list[str]]:
    """Read a course with all answers that count today, and whose they are. Raises `UnknownCourse`."""
    course = read_course_model(db, tenant_id, course_id)
    return course, *course_log(course, read_all_entries(db, tenant_id, course_id))


def screen_course(course: CourseModel, log: Log, learner_ids: Sequence[str]) -> ScreenedCourse:
    """Screen a course by its answers."""
    report = screening_report(screen_log(log, course.parameters.items.skills), course.item_ids, learner_ids)
    return ScreenedCourse(report, list(screening_warnings(report)))


def screening_report(screening: Screening, item_ids: Sequence[str], learner_ids: Sequence[str]) -> Json:
    """Report the suspect items, the surest first, and the learners whose answers do not fit, the worst first."""
    items, persons = screening.items, screening.persons
    suspect = [
        {"item": item_ids[item], **description}
        for item in range(len(item_ids))
        if items.suspect[item] and (description := items.describe(item)) is not None
    ]
    suspect.sort(key=lambda described: described["correlation"])
    worst = persons.worst.tolist()
    return {
        "suspect_items": {"judged": int(items.judged.sum()), "count": len(suspect), "items": suspect[:MAX_ITEMS]},
        "person_fit": {
            "judged": int(persons.judged.sum()),
            "misfitting": len(worst),
            "many": persons.many,
            "learner_ids": [learner_ids[learner] for learner in worst[:MAX_LEARNERS]],
        },
    }


def screening_warnings(report: Json) -> Iterator[Json]:
    """What a person should look at in a screening report."""
    items, persons = report["suspect_items"], report["person_fit"]
    if items["count"]:
        yield {
            "code": "suspect_items",
            "detail": f"{items['count']:,} of {items['judged']:,} items do not measure what the others measure; "
            "look at their keys and texts. With a calibration in force that says so, answers to them move no number, "
            "until the catalogue has them as reviewed",
        }
    if persons["many"]:
        yield {
            "code": "misfitting_learners",
            "detail": f"the answers of {persons['misfitting']:,} of {persons['judged']:,} learners have little to do "
            "with how difficult the items are; leave those out who did not try, and calibrate again",
        }


def change_warnings(report: Json, items: int) -> Iterator[Json]:
    """What a person should look at if a calibration moved most of the items that had answers."""
    changed = report["items_changed"]
    if report["compared_with"] is not None and changed >= MIN_CHANGED and changed > MANY_CHANGED * items:
        yield {
            "code": "many_items_changed",
            "detail": f"{changed:,} of {items:,} items moved by more than .25 logits since "
            f"{report['compared_with']}; find out why before you activate it",
        }


def rate_warnings(skills: Skills) -> Iterator[Json]:
    """What fitted rates say about how far the word mastered can be relied on (docs/models.md, "Is it true?")."""
    if not skills.count:
        return
    at_bound = int((skills.p_forget >= AT_BOUND * highest_forget(skills.p_learn)).sum())
    if float(skills.p_learn.mean()) < LITTLE_LEARNING:
        yield {
            "code": "little_learning",
            "detail": f"P(T) is {skills.p_learn.mean():.2f} on average: hardly anybody learns by answering here, and "
            "mastered is wrong about one time in ten",
        }
    elif at_bound > MANY_AT_BOUND * skills.count:
        yield {
            "code": "fast_forgetting",
            "detail": f"P(F) of {at_bound:,} of {skills.count:,} skills is as high as a fit allows; if they are "
            "forgotten faster, mastered is wrong up to one time in five",
        }


def describe_suspect_items(items: Sequence[Json]) -> Iterator[str]:
    """Describe suspect items in a line each."""
    advice = {
        "negative_discrimination": "its key is probably wrong",
        "no_discrimination": "it tells nothing about the rest",
    }
    for item in items:
        low, high = item["interval"]
        yield (
            f"item {item['item']}: {advice[item['problem']]}: item-rest correlation {item['correlation']:.2f} "
            f"({low:.2f} to {high:.2f}, {item['expected']:.2f} expected) over {item['responses']:,} answers"
        )
