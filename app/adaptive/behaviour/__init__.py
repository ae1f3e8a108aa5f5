"""The calibrated part of `p_correct` that looks at behaviour, not at knowledge."""
