"""Use cases: one function each, inside the transaction of the caller, without HTTP and without SQL."""
