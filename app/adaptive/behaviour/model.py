"""The behaviour model, which corrects `p_correct` only: retries, guessing on, and which answers go together.

Ability and mastery are what a learner can do; a prediction may also use how the learner goes about it: trying the
same item again at once, guessing on, being right where a similar item was right. Two parts (docs/models.md):

    factors   ψ = κ ((1 + a_c) logit p + b_ic + λ_ic · z)       z ~ N(0, I): a few static traits beside the ability
    weights   logit p_correct = ψ + w · x + w_c · (1, ψ, κ λ_ic · z) + Σ weights of the crosses of the answer

where p is the filter's prediction, c the context of the answer (first, n-th retry, returned later) and a cross is a
coincidence, such as "this item after that one was wrong". Nothing here feeds back: ability and mastery do
not depend on this model.

Sizes: B learners, N answers or candidates, R factors, D features.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log1p, xlogy

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.hashing import Keys, find_keys, hash_keys
from app.adaptive.numerics import HALF, TINY, logit, ordered_sum
from app.adaptive.parameters import BehaviourModel, Items
from app.adaptive.recent_items import find_recent
from app.adaptive.state import BehaviourState, RecentItems

CONTEXTS, KINDS = 14, 8
FIRST, RETRY_LIMIT, AGAIN_AFTER_RIGHT, BACK_AFTER_WRONG, BACK_AFTER_RIGHT = 0, 10, 11, 12, 13
DECAYS = (0.5, 0.8, 0.95)
TOKENS, TOKEN_KINDS = 4, 5
EPISODES, EPISODE_KINDS = 3, 5
FEATURES = 14
CROSSES = 7
# Keys of one kind never equal those of another.
CONTEXT_OF_ITEM, PAIR_OF_ITEMS, PAIR_OF_SKILLS, LAST_RESULTS = range(4)
CONTEXT_OF_SKILLS, EPISODE_HISTORY, EPISODES_ON_ITEM, ITEM_CONTEXT, SKILL_SET = range(4, 9)
# Wrong answers to an item before the right one: none, a few, many.
A_FEW = 2


@dataclass(frozen=True)
class FilterOutputs:
    """What the filter says before an answer, each (N,): prediction, variance, mastery, and answers so far.

    `successes` and `failures` are means of log(1 + sum of scores), log(1 + sum of lost scores) over the item's skills.
    """

    p: Floats
    variance: Floats
    mastery: Floats
    total_responses: Floats
    successes: Floats
    failures: Floats


@dataclass(frozen=True)
class Features:
    """What the behaviour model is given of an answer: ψ, what the factors add, features, context and crosses.

    `psi`, `pull`, `spread`, `context` are (N,), `loading` (N, R), `values` (N, D), `crosses` (N, C).
    """

    psi: Floats
    pull: Floats
    spread: Floats
    loading: Floats
    context: Integers
    values: Floats
    crosses: Keys


def initial_behaviour_state(count: int, behaviour_model: BehaviourModel | None) -> BehaviourState:
    """`count` learners of whom nothing is known."""
    factors = 0 if behaviour_model is None else behaviour_model.factors
    return BehaviourState(
        trait=np.zeros((count, factors)),
        trait_variance=np.ones((count, factors)),
        surprises=np.zeros((count, len(DECAYS))),
        tokens=np.zeros(count, dtype=np.int64),
        episodes=np.zeros(count, dtype=np.int64),
        run=np.zeros(count, dtype=np.int64),
        right=np.zeros(count, dtype=np.bool_),
        last_item=np.full(count, -1, dtype=np.int64),
    )


def build_features(
    behaviour_model: BehaviourModel,
    item_bank: Items,
    behaviour_state: BehaviourState,
    recent: RecentItems,
    learners: Integers,
    chosen: Integers,
    outputs: FilterOutputs,
) -> Features:
    """Return the features of item `chosen[n]` for learner `learners[n]` (a row of `behaviour_state` and `recent`)."""
    slot, known = find_recent(recent, learners, chosen)
    tries = np.where(known, recent.tries[learners, slot], 0)
    scores = np.where(known, recent.scores[learners, slot], 0.0)
    context = _response_context(behaviour_state, learners, chosen, known, recent.solved[learners, slot])
    base = logit(np.clip(outputs.p, TINY, 1 - TINY))
    loading, psi = _find_loadings(behaviour_model, item_bank, chosen, context, base)
    pull = ordered_sum(loading * behaviour_state.trait[learners]) if behaviour_model.factors else np.zeros(len(chosen))
    spread = (
        ordered_sum(loading * loading * behaviour_state.trait_variance[learners]) if behaviour_model.factors else pull
    )
    shrink = 1 / np.sqrt(1 + np.pi / 8 * spread)
    psi, pull = shrink * (psi + pull), shrink * pull
    values = np.stack(
        [
            psi,
            pull,
            base,
            log1p(spread),
            xlogy(1.0, outputs.variance),
            outputs.mastery,
            log1p(outputs.total_responses),
            outputs.successes,
            outputs.failures,
            log1p(scores),
            log1p(np.maximum(tries - scores, 0.0)),
            *behaviour_state.surprises[learners].T,
        ],
        axis=1,
    )
    return Features(
        psi,
        pull,
        spread,
        loading,
        context,
        values,
        _hash_crosses(item_bank, behaviour_state, learners, chosen, context),
    )


def _response_context(
    behaviour_state: BehaviourState, learners: Integers, chosen: Integers, known: Booleans, solved: Booleans
) -> Integers:
    """0 first; 1 to 10 that many retries at once after a wrong answer; 11 at once after a right one; 12, 13 back."""
    again = behaviour_state.last_item[learners] == chosen
    back = np.where(solved, BACK_AFTER_RIGHT, BACK_AFTER_WRONG)
    retry = np.where(
        behaviour_state.right[learners], AGAIN_AFTER_RIGHT, np.minimum(behaviour_state.run[learners], RETRY_LIMIT)
    )
    return np.where(again, retry, np.where(known, back, FIRST))


def context_kind(context: Integers) -> Integers:
    """The context in eight kinds: as it is up to 3, then 4 for every later retry, and 5 to 7."""
    return np.where(context >= AGAIN_AFTER_RIGHT, context - 6, np.minimum(context, 4))


def _find_loadings(
    behaviour_model: BehaviourModel, item_bank: Items, chosen: Integers, context: Integers, base: Floats
) -> tuple[Floats, Floats]:
    """Return the loadings (N, R) of items in contexts, of the skill set where unseen, and ψ without factors."""
    kind = context_kind(context)
    if not len(behaviour_model.item_contexts):
        return np.zeros((len(chosen), behaviour_model.factors)), base
    row, is_known = find_keys(behaviour_model.item_contexts, hash_item_contexts(chosen, kind))
    set_row, in_set = find_keys(behaviour_model.skill_sets, hash_skill_sets(item_bank, chosen, kind))
    mean = behaviour_model.context_loadings[kind] + np.where(
        in_set[:, None], behaviour_model.skill_set_loadings[set_row], 0.0
    )
    loading = np.where(is_known[:, None], behaviour_model.loadings[row], mean)
    return loading[:, 1:], (1 + behaviour_model.context_slope[kind]) * base + loading[:, 0]


def hash_item_contexts(chosen: Integers, kind: Integers) -> Keys:
    """The keys of items in kinds of context."""
    return hash_keys(ITEM_CONTEXT, chosen, kind)


def hash_skill_sets(item_bank: Items, chosen: Integers, kind: Integers) -> Keys:
    """The keys of what items share with all items of the same skills, apart for first answers and others."""
    return hash_keys(SKILL_SET, item_bank.skill_sets[chosen], (kind > 0).astype(np.int64))


def _hash_crosses(
    item_bank: Items, behaviour_state: BehaviourState, learners: Integers, chosen: Integers, context: Integers
) -> Keys:
    """The coincidences of an answer as keys; (N, C)."""
    kind, skill_sets = context_kind(context), item_bank.skill_sets
    last = behaviour_state.last_item[learners]
    result = np.where(last < 0, 0, 1 + behaviour_state.right[learners])
    before = np.where(last < 0, -1, skill_sets[last]) if item_bank.count else last
    same = (last == chosen).astype(np.int64)
    # An answer to another item ends the episode of the last one.
    episodes = np.where(same == 1, behaviour_state.episodes[learners], _close_episode(behaviour_state)[learners])
    return np.stack(
        [
            hash_keys(CONTEXT_OF_ITEM, chosen, kind),
            hash_keys(PAIR_OF_ITEMS, 3 * last + result, chosen),
            hash_keys(PAIR_OF_SKILLS, 3 * before + result, skill_sets[chosen]),
            hash_keys(LAST_RESULTS, behaviour_state.tokens[learners], same),
            hash_keys(CONTEXT_OF_SKILLS, skill_sets[chosen], kind),
            hash_keys(EPISODE_HISTORY, episodes, context),
            hash_keys(EPISODES_ON_ITEM, episodes % EPISODE_KINDS**2, chosen * KINDS + kind),
        ],
        axis=1,
    )


def expected_p(behaviour_model: BehaviourModel, features: Features) -> Floats:
    """`p_correct`, (N,), within 1e-9 and 1 - 1e-9."""
    total = features.psi + ordered_sum(features.values * behaviour_model.weights)
    by_context = behaviour_model.context_weights[features.context]
    total = total + by_context[:, 0] + by_context[:, 1] * features.psi + by_context[:, 2] * features.pull
    if len(behaviour_model.crosses):
        row, is_known = find_keys(behaviour_model.crosses, features.crosses)
        total = total + ordered_sum(np.where(is_known, behaviour_model.cross_weights[row], 0.0))
    return np.asarray(np.clip(expit(total), TINY, 1 - TINY))


def _close_episode(behaviour_state: BehaviourState) -> Integers:
    """The last three episodes as one number once the current one is over; (B,).

    An episode is all answers in a row to one item: right at first, after one or two wrong ones, after more, or never.
    """
    tries = 1 + (behaviour_state.run > 1) + (behaviour_state.run > 1 + A_FEW)
    episode = np.where(behaviour_state.last_item < 0, 0, np.where(behaviour_state.right, tries, 4))
    return np.asarray(behaviour_state.episodes % EPISODE_KINDS ** (EPISODES - 1) * EPISODE_KINDS + episode)


def update_behaviour_state(
    behaviour_state: BehaviourState, features: Features, items: Integers, scores: Floats
) -> None:
    """Remember one answer of each of B learners, in place; `features` is what was seen before it."""
    right = scores >= HALF
    p = expit(features.psi)
    surprise = scores - p
    if behaviour_state.trait.shape[1]:
        weight = p * (1 - p)
        # ψ is on the shrunken scale; the step of the extended Kalman filter is that of the plain one.
        gain = behaviour_state.trait_variance * features.loading
        room = 1 + weight * features.spread
        behaviour_state.trait[:] += gain * (surprise / room)[:, None]
        behaviour_state.trait_variance[:] -= gain * gain * (weight / room)[:, None]
    for column, keep in enumerate(DECAYS):
        behaviour_state.surprises[:, column] = keep * behaviour_state.surprises[:, column] + (1 - keep) * surprise
    behaviour_state.episodes[:] = np.where(
        behaviour_state.last_item == items, behaviour_state.episodes, _close_episode(behaviour_state)
    )
    token = 1 + right + 2 * (features.context > FIRST)
    behaviour_state.tokens[:] = behaviour_state.tokens % TOKEN_KINDS ** (TOKENS - 1) * TOKEN_KINDS + token
    behaviour_state.run[:] = np.where(behaviour_state.last_item == items, behaviour_state.run + 1, 1)
    behaviour_state.last_item[:] = items
    behaviour_state.right[:] = right
