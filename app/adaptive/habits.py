"""What only `p_correct` may know: retries, habits, and which answers go together.

Ability and mastery are what a learner can do; a prediction may also use how the learner goes about it: trying the
same item again at once, guessing on, being right where a twin of the item was right. Two parts (docs/models.md):

    factors   ψ = κ ((1 + a_c) logit p + b_ic + λ_ic · z)       z ~ N(0, I): a few static traits beside the ability
    head      logit p_correct = ψ + w · x + w_c · (1, ψ, κ λ_ic · z) + Σ weights of the cues of the answer

where p is the filter's prediction, c the context of the answer (first, n-th retry, returned later) and a cue is a
coincidence, such as "this item after that one was wrong". Nothing here feeds back: ability and mastery are the same
whatever the head says.

Sizes: B learners, N answers or candidates, R factors, M remembered items, D features.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log1p, xlogy

from app.adaptive.keys import Keys, found, mixed
from app.adaptive.likelihood import TINY, logit, ordered_sum
from app.adaptive.metrics import HALF
from app.adaptive.types import Booleans, Floats, Habits, Head, Integers, Items

REMEMBERED = 64
CONTEXTS, KINDS = 14, 8
FIRST, RETRY_LIMIT, AGAIN_AFTER_RIGHT, BACK_AFTER_WRONG, BACK_AFTER_RIGHT = 0, 10, 11, 12, 13
DECAYS = (0.5, 0.8, 0.95)
TOKENS, TOKEN_KINDS = 4, 5
EPISODES, EPISODE_KINDS = 3, 5
FEATURES = 14
CUES = 7
# Cues and places of one kind never meet those of another.
CONTEXT_OF_ITEM, PAIR_OF_ITEMS, PAIR_OF_SKILLS, LAST_RESULTS = range(4)
CONTEXT_OF_SKILLS, HABIT, HABIT_ON_ITEM, PLACE, KIN = range(4, 9)
# Wrong answers to an item before the right one: none, a few, many.
A_FEW = 2


@dataclass(frozen=True)
class Seen:
    """What the filter says before an answer, each (N,): prediction, variance, mastery, and answers so far.

    `successes` and `failures` are means of log(1 + sum of scores), log(1 + sum of lost scores) over the item's skills.
    """

    p: Floats
    variance: Floats
    mastery: Floats
    answers: Floats
    successes: Floats
    failures: Floats


@dataclass(frozen=True)
class Look:
    """An answer about to be given as the head sees it: ψ, what the factors add, features, context and cues.

    `psi`, `pull`, `spread`, `context` are (N,), `loading` (N, R), `features` (N, D), `cues` (N, C).
    """

    psi: Floats
    pull: Floats
    spread: Floats
    loading: Floats
    context: Integers
    features: Floats
    cues: Keys


def no_habits(count: int, head: Head | None) -> Habits:
    """`count` learners of whom nothing is known; without a head nothing is remembered."""
    factors, remembered = (0, 0) if head is None else (head.factors, REMEMBERED)
    return Habits(
        trait=np.zeros((count, factors)),
        trait_variance=np.ones((count, factors)),
        surprises=np.zeros((count, len(DECAYS))),
        tokens=np.zeros(count, dtype=np.int64),
        episodes=np.zeros(count, dtype=np.int64),
        run=np.zeros(count, dtype=np.int64),
        right=np.zeros(count, dtype=np.bool_),
        last_item=np.full(count, -1, dtype=np.int64),
        items=np.full((count, remembered), -1, dtype=np.int64),
        tries=np.zeros((count, remembered), dtype=np.int64),
        scores=np.zeros((count, remembered)),
        solved=np.zeros((count, remembered), dtype=np.bool_),
        met=np.zeros(count, dtype=np.int64),
    )


def look(head: Head, bank: Items, habits: Habits, learners: Integers, chosen: Integers, seen: Seen) -> Look:
    """See item `chosen[n]` with the habits of learner `learners[n]` (a row of `habits`)."""
    place = np.argmax(habits.items[learners] == chosen[:, None], axis=1)
    known = habits.items[learners, place] == chosen
    tries = np.where(known, habits.tries[learners, place], 0)
    scores = np.where(known, habits.scores[learners, place], 0.0)
    context = context_of(habits, learners, chosen, known, habits.solved[learners, place])
    base = logit(np.clip(seen.p, TINY, 1 - TINY))
    loading, psi = found_loadings(head, bank, chosen, context, base)
    pull = ordered_sum(loading * habits.trait[learners]) if head.factors else np.zeros(len(chosen))
    spread = ordered_sum(loading * loading * habits.trait_variance[learners]) if head.factors else pull
    shrink = 1 / np.sqrt(1 + np.pi / 8 * spread)
    psi, pull = shrink * (psi + pull), shrink * pull
    features = np.stack(
        [
            psi,
            pull,
            base,
            log1p(spread),
            xlogy(1.0, seen.variance),
            seen.mastery,
            log1p(seen.answers),
            seen.successes,
            seen.failures,
            log1p(scores),
            log1p(np.maximum(tries - scores, 0.0)),
            *habits.surprises[learners].T,
        ],
        axis=1,
    )
    return Look(psi, pull, spread, loading, context, features, cues_of(bank, habits, learners, chosen, context))


def context_of(habits: Habits, learners: Integers, chosen: Integers, known: Booleans, solved: Booleans) -> Integers:
    """0 first; 1 to 10 that many retries at once after a wrong answer; 11 at once after a right one; 12, 13 back."""
    again = habits.last_item[learners] == chosen
    back = np.where(solved, BACK_AFTER_RIGHT, BACK_AFTER_WRONG)
    retry = np.where(habits.right[learners], AGAIN_AFTER_RIGHT, np.minimum(habits.run[learners], RETRY_LIMIT))
    return np.where(again, retry, np.where(known, back, FIRST))


def grouped(context: Integers) -> Integers:
    """The context in eight kinds: as it is up to 3, then 4 for every later retry, and 5 to 7."""
    return np.where(context >= AGAIN_AFTER_RIGHT, context - 6, np.minimum(context, 4))


def found_loadings(head: Head, bank: Items, chosen: Integers, context: Integers, base: Floats) -> tuple[Floats, Floats]:
    """The loadings (N, R) of items in their contexts, and ψ before the factors; kin stand in for the never seen."""
    kind = grouped(context)
    if not len(head.places):
        return np.zeros((len(chosen), head.factors)), base
    row, there = found(head.places, place_keys(chosen, kind))
    kin_row, akin = found(head.kin, kin_keys(bank, chosen, kind))
    mean = head.context_loadings[kind] + np.where(akin[:, None], head.kin_loadings[kin_row], 0.0)
    loading = np.where(there[:, None], head.loadings[row], mean)
    return loading[:, 1:], (1 + head.context_slope[kind]) * base + loading[:, 0]


def place_keys(chosen: Integers, kind: Integers) -> Keys:
    """The keys of items in kinds of context."""
    return mixed(PLACE, chosen, kind)


def kin_keys(bank: Items, chosen: Integers, kind: Integers) -> Keys:
    """The keys of what items share with all items of the same skills, apart for first answers and others."""
    return mixed(KIN, bank.combinations[chosen], (kind > 0).astype(np.int64))


def cues_of(bank: Items, habits: Habits, learners: Integers, chosen: Integers, context: Integers) -> Keys:
    """The coincidences of an answer as keys; (N, C)."""
    kind, kin = grouped(context), bank.combinations
    last = habits.last_item[learners]
    result = np.where(last < 0, 0, 1 + habits.right[learners])
    before = np.where(last < 0, -1, kin[last]) if bank.count else last
    same = (last == chosen).astype(np.int64)
    # An answer to another item ends the episode of the last one.
    episodes = np.where(same == 1, habits.episodes[learners], ended(habits)[learners])
    return np.stack(
        [
            mixed(CONTEXT_OF_ITEM, chosen, kind),
            mixed(PAIR_OF_ITEMS, 3 * last + result, chosen),
            mixed(PAIR_OF_SKILLS, 3 * before + result, kin[chosen]),
            mixed(LAST_RESULTS, habits.tokens[learners], same),
            mixed(CONTEXT_OF_SKILLS, kin[chosen], kind),
            mixed(HABIT, episodes, context),
            mixed(HABIT_ON_ITEM, episodes % EPISODE_KINDS**2, chosen * KINDS + kind),
        ],
        axis=1,
    )


def expected(head: Head, view: Look) -> Floats:
    """`p_correct`, (N,), within 1e-9 and 1 - 1e-9."""
    total = view.psi + ordered_sum(view.features * head.weights)
    by_context = head.context_weights[view.context]
    total = total + by_context[:, 0] + by_context[:, 1] * view.psi + by_context[:, 2] * view.pull
    if len(head.cues):
        row, there = found(head.cues, view.cues)
        total = total + ordered_sum(np.where(there, head.cue_weights[row], 0.0))
    return np.asarray(np.clip(expit(total), TINY, 1 - TINY))


def ended(habits: Habits) -> Integers:
    """The last three episodes as one number once the current one is over; (B,).

    An episode is all answers in a row to one item: right at first, after one or two wrong ones, after more, or never.
    """
    tries = 1 + (habits.run > 1) + (habits.run > 1 + A_FEW)
    episode = np.where(habits.last_item < 0, 0, np.where(habits.right, tries, 4))
    return np.asarray(habits.episodes % EPISODE_KINDS ** (EPISODES - 1) * EPISODE_KINDS + episode)


def observe(habits: Habits, view: Look, items: Integers, scores: Floats) -> None:
    """Remember one answer of each of B learners, in place; `view` is what was seen before it."""
    right = scores >= HALF
    p = expit(view.psi)
    surprise = scores - p
    if habits.trait.shape[1]:
        weight = p * (1 - p)
        # ψ is on the shrunken scale; the step of the extended Kalman filter is that of the plain one.
        gain = habits.trait_variance * view.loading
        room = 1 + weight * view.spread
        habits.trait[:] += gain * (surprise / room)[:, None]
        habits.trait_variance[:] -= gain * gain * (weight / room)[:, None]
    for column, keep in enumerate(DECAYS):
        habits.surprises[:, column] = keep * habits.surprises[:, column] + (1 - keep) * surprise
    habits.episodes[:] = np.where(habits.last_item == items, habits.episodes, ended(habits))
    token = 1 + right + 2 * (view.context > FIRST)
    habits.tokens[:] = habits.tokens % TOKEN_KINDS ** (TOKENS - 1) * TOKEN_KINDS + token
    habits.run[:] = np.where(habits.last_item == items, habits.run + 1, 1)
    habits.last_item[:] = items
    habits.right[:] = right
    remember(habits, items, scores, right)


def remember(habits: Habits, items: Integers, scores: Floats, right: Booleans) -> None:
    """Count the answers in the list of remembered items; a new item takes the place of the one that came first."""
    rows = np.arange(len(items))
    place = np.argmax(habits.items == items[:, None], axis=1)
    fresh = habits.items[rows, place] != items
    place = np.where(fresh, habits.met % REMEMBERED, place)
    habits.items[rows, place] = items
    habits.tries[rows, place] = np.where(fresh, 1, habits.tries[rows, place] + 1)
    habits.scores[rows, place] = np.where(fresh, scores, habits.scores[rows, place] + scores)
    habits.solved[rows, place] = right
    habits.met[:] += fresh
