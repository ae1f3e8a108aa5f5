"""What a screening report names, and in which words."""

import numpy as np
import pytest
from scipy.special import expit

from app.adaptive.arrays import Booleans
from app.adaptive.calibration.fit import select_learners
from app.adaptive.calibration.screening import screen_log
from app.adaptive.parameters import Skills
from app.adaptive.response_log import Log
from app.services.screening import describe_suspect_items, rate_warnings, screening_report, screening_warnings

ITEMS, LEARNERS, BOTS = 20, 400, 60
ITEM_IDS = [f"i{number}" for number in range(ITEMS)]
LEARNER_IDS = [f"l{number}" for number in range(LEARNERS)] + [f"bot{number}" for number in range(BOTS)]


def answers(turned: Booleans) -> Log:
    """Learners of a Rasch world, of which some items have a wrong key, and bots who toss a coin."""
    rng = np.random.default_rng(5)
    p = expit(1.5 * (rng.normal(size=(LEARNERS, 1)) - np.linspace(-2, 2, ITEMS)))
    p = np.concatenate([np.where(turned, 1 - p, p), np.full((BOTS, ITEMS), 0.5)])
    scores = (rng.uniform(size=p.shape) < p).astype(np.float64)
    items = np.tile(np.arange(ITEMS), len(p))
    return Log(np.arange(len(p) + 1) * ITEMS, items, scores.ravel(), np.zeros(scores.size))


def test_report_names_wrong_keys_and_bots_with_what_that_rests_on() -> None:
    screening = screen_log(answers(np.arange(ITEMS) == 7), np.empty((ITEMS, 0), dtype=np.int64))
    report = screening_report(screening, ITEM_IDS, LEARNER_IDS)
    assert [warning["code"] for warning in screening_warnings(report)] == ["suspect_items", "misfitting_learners"]
    suspect = report["suspect_items"]
    assert (suspect["judged"], suspect["count"]) == (ITEMS, 1)
    (item,) = suspect["items"]
    assert (item["item"], item["problem"], item["responses"]) == ("i7", "negative_discrimination", LEARNERS + BOTS)
    low, high = item["interval"]
    assert -1 <= low < item["correlation"] < high < 0 < item["expected"]
    fit = report["person_fit"]
    assert fit["judged"] == LEARNERS + BOTS
    assert len(fit["learner_ids"]) == fit["misfitting"]
    assert sum(id_.startswith("bot") for id_ in fit["learner_ids"]) > BOTS / 2
    assert sum(id_.startswith("l") for id_ in fit["learner_ids"]) < 0.05 * LEARNERS
    (line,) = describe_suspect_items(suspect["items"])
    assert line.startswith("item i7: its key is probably wrong: item-rest correlation -0.")
    assert line.endswith("over 460 answers")


def test_report_on_good_answers_warns_of_nothing() -> None:
    log = answers(np.zeros(ITEMS, dtype=np.bool_))
    honest = select_learners(log, np.arange(LEARNERS))
    report = screening_report(screen_log(honest, np.empty((ITEMS, 0), dtype=np.int64)), ITEM_IDS, LEARNER_IDS)
    assert list(screening_warnings(report)) == []
    assert report["suspect_items"] == {"judged": ITEMS, "count": 0, "items": []}


def rates(p_learn: float, p_forget: float, skills: int = 4) -> Skills:
    """Skills of equal rates."""
    return Skills(np.full(skills, 0.3), np.full(skills, p_learn), np.full(skills, p_forget), np.empty((skills, 0), int))


@pytest.mark.parametrize(
    ("p_learn", "p_forget", "codes"),
    [
        (0.3, 0.01, []),
        (0.3, 0.025, ["fast_forgetting"]),
        (0.9, 0.05, ["fast_forgetting"]),
        (0.05, 0.002, ["little_learning"]),
    ],
)
def test_rates_that_make_the_word_mastered_doubtful_are_named(
    p_learn: float, p_forget: float, codes: list[str]
) -> None:
    assert [warning["code"] for warning in rate_warnings(rates(p_learn, p_forget))] == codes


def test_course_without_skills_has_no_warning_of_rates() -> None:
    assert list(rate_warnings(rates(0.3, 0.01, skills=0))) == []
