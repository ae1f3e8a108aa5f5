"""The filter: what each response says about ability and mastery, and how sure that is."""
