"""Screening of a log before anybody relies on what was fitted to it: items that lie, learners who do not try."""

from dataclasses import dataclass

from app.adaptive.arrays import Integers
from app.adaptive.calibration.item_analysis import ItemAnalysis, analyse_items
from app.adaptive.calibration.person_fit import PersonFit, measure_person_fit
from app.adaptive.calibration.rest_predictions import (
    first_successes,
    fit_rasch,
    predict_from_rest,
    select_responses,
)
from app.adaptive.response_log import Log


@dataclass(frozen=True)
class Screening:
    """What was found of the items (I,) and of the learners (L,)."""

    items: ItemAnalysis
    persons: PersonFit


def screen_log(log: Log, skills: Integers) -> Screening:
    """Screen a log by the first answers of each learner to each item; `skills` (I, K) are those of the items.

    Learners who do not fit blur what fitting looks like, so they are left out once, and all are measured again.
    """
    responses = first_successes(log, len(skills))
    rest = predict_from_rest(fit_rasch(responses, len(skills)), responses)
    items, persons = analyse_items(responses, rest, skills), measure_person_fit(responses, rest)
    if persons.misfitting.any():
        purified = fit_rasch(select_responses(responses, ~persons.misfitting), len(skills))
        persons = measure_person_fit(responses, predict_from_rest(purified, responses))
    return Screening(items, persons)
