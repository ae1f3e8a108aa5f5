"""States as bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adaptive.tracing.filter import initial_states
from app.adaptive.tracing.state_codec import FIXED, SKILL, decode_states, encode_states
from tests.adaptive.worlds import frozen, random_course, random_states, same

seeds = st.integers(0, 2**32 - 1)


@given(seeds)
def test_states_are_unchanged_by_encoding_and_decoding(seed: int) -> None:
    parameters = frozen(random_course(seed, skills=8))
    states = frozen(random_states(parameters, seed, learners=6, longest=6))
    packed = encode_states(parameters, states)
    assert same(decode_states(parameters, packed), states)
    assert encode_states(parameters, decode_states(parameters, packed)) == packed


@given(seeds)
def test_states_of_a_learner_have_the_same_bytes_alone_and_in_a_batch(seed: int) -> None:
    parameters = random_course(seed)
    states = random_states(parameters, seed, learners=5)
    packed = encode_states(parameters, states)
    for row in range(5):
        assert encode_states(parameters, states[row : row + 1]) == packed[row : row + 1]
        assert same(decode_states(parameters, packed[row : row + 1]), states[row : row + 1])


def test_state_of_a_new_learner_takes_the_fixed_size_and_empty_bytes_decode_to_it() -> None:
    parameters = random_course(3)
    nobody = initial_states(parameters, 3)
    assert [len(data) for data in encode_states(parameters, nobody)] == [FIXED.itemsize] * 3
    assert same(decode_states(parameters, [b""] * 3), nobody)
    assert decode_states(parameters, []).count == 0
    known = encode_states(parameters, random_states(parameters, 3, learners=1))
    assert same(decode_states(parameters, [b"", *known])[1:], decode_states(parameters, known))


def test_states_that_are_torn_or_have_more_skills_are_refused() -> None:
    parameters = random_course(4, skills=6)
    whole = encode_states(parameters, random_states(parameters, 4, learners=2, longest=30))
    half = SKILL.itemsize // 2
    assert all(len(data) >= FIXED.itemsize + SKILL.itemsize for data in whole)
    for torn in (
        [whole[0][:-1], whole[1]],
        [whole[0][:-half], whole[1][:-half]],
        [whole[0][: FIXED.itemsize - 1], whole[1]],
        [whole[0][: FIXED.itemsize // 2], whole[1][: FIXED.itemsize // 2]],
    ):
        with pytest.raises(ValueError, match="torn"):
            decode_states(parameters, torn)
    with pytest.raises(ValueError, match="more skills"):
        decode_states(random_course(4, skills=1), whole)


def test_encoding_of_states_loses_no_bit_of_an_ability() -> None:
    parameters = random_course(5)
    states = random_states(parameters, 5)
    states.ability[:] = np.nextafter(0.1, 1)
    assert decode_states(parameters, encode_states(parameters, states)).ability.tobytes() == states.ability.tobytes()
