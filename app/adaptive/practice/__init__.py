"""Which item a learner practises next, and why."""
