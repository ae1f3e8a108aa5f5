"""Each law must be able to fail: the engine is broken on purpose and the law has to notice."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from app.adaptive import hashing
from app.adaptive.calibration import fit as calibration
from app.adaptive.practice import choose, items, skills
from app.adaptive.tracing import filter as engine
from app.adaptive.tracing import likelihood, mastery
from tests.adaptive import laws
from tests.adaptive.worlds import random_course

pytestmark = pytest.mark.controls

Patch = pytest.MonkeyPatch


def over_seeds(law: Callable[[Any, int], None]) -> Callable[[], None]:
    """The law on twenty random courses."""

    def check() -> None:
        for seed in range(20):
            law(random_course(seed), seed)

    return check


def finite() -> None:
    parameters, _ = laws.extreme_world()
    laws.stays_finite(parameters, laws.extreme_log(parameters, 40))


def sums_to_one() -> None:
    laws.chances_sum_to_one(np.array([0.0, 0.05, 0.1, 0.15, 0.6]))


def swap_the_likelihoods(patch: Patch) -> None:
    """Mastery published as 1 - mastery."""
    bayes = engine.bayes
    patch.setattr(engine, "bayes", lambda prior, if_true, if_false: bayes(prior, if_false, if_true))


def look_at_the_batch(patch: Patch) -> None:
    """A sum whose last bit depends on who else is there."""
    latent = engine.latent_moments

    def together(*given: Any) -> Any:
        logit, variance, known = latent(*given)
        return logit * (1 + 1e-16 * len(logit) + 2e-16 * (len(logit) > 1)), variance, known

    patch.setattr(engine, "latent_moments", together)


def lose_the_bounds(patch: Patch) -> None:
    patch.setattr(engine, "BOUND", np.inf)


def lose_the_floor(patch: Patch) -> None:
    patch.setattr(likelihood, "TINY", 0.0)


def let_the_variance_grow(patch: Patch) -> None:
    """The mixture's spread with the wrong sign: an answer makes less sure."""
    surprise = engine.measure_surprise

    def wrong(*given: Any) -> Any:
        pull, shrinkage = surprise(*given)
        return pull, -shrinkage

    patch.setattr(engine, "measure_surprise", wrong)


def take_whole_newton_steps(patch: Patch) -> None:
    """Moodle and catsim: the estimate moves against the answer when a step overshoots."""
    patch.setattr(engine, "_posterior_mode", overshoot)


def overshoot(items: Any, chosen: Any, scores: Any, eta: Any, variance: Any, shift: Any) -> Any:
    gradient, information = likelihood.slopes(items, chosen, eta + shift, scores)
    x = eta + gradient / np.maximum(information, 1e-6)
    x = x + (likelihood.slopes(items, chosen, x + shift, scores).gradient) / 0.05
    return x, 1 / (information + 1 / variance)


def forget_to_learn(patch: Patch) -> None:
    """Mastery without its transition."""
    move = engine.update_mastery

    def without(skills: Any, states: Any, asked: Any, *others: Any) -> None:
        move(skills, states, asked, *others)
        states.mastery[asked.rows, asked.skill] -= states.learning_gain[asked.rows, asked.skill]

    patch.setattr(engine, "update_mastery", without)


def inform_the_skills_of_the_item(patch: Patch) -> None:
    """Without the exception for items that ask for the prerequisite themselves: counted twice."""
    original = engine.update_prerequisites

    class Blind:
        """Parameters whose items inform of every prerequisite."""

        def __init__(self, parameters: Any) -> None:
            self.skills, self.population = parameters.skills, parameters.population
            self.items, prerequisites = parameters.items, parameters.skills.prerequisites
            self.informed_prerequisites = np.where(
                self.items.skills[:, :, None] >= 0, prerequisites[self.items.skills], -1
            )

    def twice(parameters: Any, *others: Any) -> None:
        original(Blind(parameters), *others)  # type: ignore[arg-type]

    patch.setattr(engine, "update_prerequisites", twice)


def inform_backwards(patch: Patch) -> None:
    """A missing prerequisite makes knowing more likely."""
    patch.setattr(engine, "WITHOUT_PREREQUISITE", 2.0)


def swap_the_weights(patch: Patch) -> None:
    """The skill by its doubt where the value is meant, as in a system that ordered its weights differently."""
    stand = skills.judge_skills

    def swapped(*given: Any) -> Any:
        skill_status = stand(*given)
        return skills.SkillStatus(**{**vars(skill_status), "value": skill_status.need, "need": skill_status.value})

    patch.setattr(choose, "judge_skills", swapped)


def lose_the_stay(patch: Patch) -> None:
    patch.setattr(skills, "STAY", -0.5)


def move_the_target(patch: Patch) -> None:
    patch.setattr(items, "TARGET", 0.9)


def state_equal_chances(patch: Patch) -> None:
    """One over the number of candidates."""
    for module in (choose, items):
        patch.setattr(module, "propensities", lambda _, learners, picked: 1 / np.bincount(learners)[learners[picked]])


def spread_the_chances(patch: Patch) -> None:
    """The random number used in the choice is twice what the chance assumes."""
    patch.setattr(items, "uniform", lambda seeds, items: 2 * hashing.uniform(seeds, items))


def widen_the_jitter(patch: Patch) -> None:
    patch.setattr(items, "JITTER", 0.1)


def shift_the_counts(patch: Patch) -> None:
    """The filtered instead of the smoothed probabilities."""
    expect = calibration.count_expected

    def filtered(skills: Any, chains: Any, known: Any, unknown: Any, *others: Any) -> Any:
        counts = expect(skills, chains, known, unknown, *others)
        q = skills.prior[chains.skill]
        first = q * known[chains.starts]
        counts["prior"] = (first / (first + (1 - q) * unknown[chains.starts]), counts["prior"][1])
        return counts

    patch.setattr(calibration, "count_expected", filtered)


def fit_on_everything(patch: Patch) -> None:
    """No cross-fitting: every row of easiness sees every answer."""
    fit = calibration.fit_intercepts

    def leaking(parameters: Any, intercept: Any, log: Any, fold: Any, *others: Any) -> Any:
        return fit(parameters, intercept, log, np.full_like(fold, -1), *others)

    patch.setattr(calibration, "fit_intercepts", leaking)


CONTROLS = [
    (swap_the_likelihoods, over_seeds(laws.answers_move_the_right_way)),
    (swap_the_likelihoods, laws.one_skill_is_bkt),
    (forget_to_learn, laws.one_skill_is_bkt),
    (take_whole_newton_steps, over_seeds(laws.answers_move_the_right_way)),
    (look_at_the_batch, over_seeds(laws.batch_does_not_matter)),
    (look_at_the_batch, over_seeds(laws.replay_is_repeated_step)),
    (lose_the_bounds, finite),
    (lose_the_floor, finite),
    (let_the_variance_grow, finite),
    (inform_the_skills_of_the_item, laws.prerequisites_are_informed),
    (inform_backwards, laws.prerequisites_are_informed),
    (swap_the_weights, laws.each_term_orders_alone),
    (lose_the_stay, laws.each_term_orders_alone),
    (move_the_target, laws.each_term_orders_alone),
    (state_equal_chances, sums_to_one),
    (state_equal_chances, laws.chance_is_what_happens),
    (spread_the_chances, laws.chance_is_what_happens),
    (widen_the_jitter, sums_to_one),
    (shift_the_counts, laws.expected_counts_enumerate_all_hidden_paths),
    (fit_on_everything, laws.intercepts_of_a_fold_ignore_its_answers),
]


@pytest.mark.parametrize(("mutant", "law"), CONTROLS, ids=[mutant.__name__ for mutant, _ in CONTROLS])
def test_law_of_the_engine_notices_its_planted_fault(
    mutant: Callable[[Patch], None], law: Callable[[], None], monkeypatch: Patch
) -> None:
    law()
    mutant(monkeypatch)
    with pytest.raises((AssertionError, FloatingPointError)):
        law()


def test_warning_of_numpy_is_an_error() -> None:
    with pytest.raises(FloatingPointError):
        np.array([0.0]) / np.array([0.0])
    with pytest.raises(FloatingPointError):
        np.array([1e300]) * np.array([1e300])


def test_status_follows_the_constant_of_the_mastery_line(monkeypatch: Patch) -> None:
    """The status follows the constant it names."""
    args = (np.array([value]) for value in (0.85, 5, 3.0, 0.0, 0.2))
    values = tuple(args)
    assert not mastery.becomes_mastered(*values)[0]
    monkeypatch.setattr(mastery, "MASTERY_LINE", 0.8)
    assert mastery.becomes_mastered(*values)[0]
