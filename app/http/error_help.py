"""What to do about each error, by its code; shown at `/errors` and, with examples, in `docs/errors.md`."""

ADVICE = {
    "internal": "Tell the operator the request_id. The request may be sent again: an answer with an id counts once.",
    "malformed_json": (
        "Send one JSON value in UTF-8 without NaN, Infinity, repeated keys, NUL characters, half surrogate pairs, "
        "numbers beyond 64 bits or more than 32 levels. The detail says where it went wrong."
    ),
    "unauthenticated": "Send a key in the header Authorization: Bearer prx_…; proxima key create makes one.",
    "missing_scope": "Use a key that has the scope named in the detail.",
    "not_found": "Check the address; what belongs to another tenant is not found either.",
    "unknown_course": "Check the id, or create the course with PUT /v1/courses/{course}/catalogue.",
    "unknown_item": "Check the id, or add the item to the catalogue of the course first.",
    "unknown_skill": "Check the id, or add the skill to the catalogue of the course first.",
    "unknown_learner": "Check the id; a learner exists from the first answer or offered exercise on.",
    "unknown_response": "Check the id; only an answer that was stored can be voided or regraded.",
    "unknown_recommendation": "Use the id of a recommendation made for this learner, or leave the field out.",
    "unknown_calibration": "Check the id; GET /v1/courses/{course}/calibrations lists them.",
    "too_many_webhooks": "Delete a webhook that is not needed; one without a course hears of all courses.",
    "unknown_webhook": "Check the id; GET /v1/webhooks lists them.",
    "unknown_session": "Check the id; POST /v1/courses/{course}/sessions begins a session and tells its id.",
    "unknown_section": "Post the section again, or begin another session: what was deleted or has expired is unknown.",
    "conflict": (
        "The id is taken by other content: use a new id for a new answer, and the same content to retry an old one."
    ),
    "response_voided": "Nothing: the answer was voided already and cannot be changed any more.",
    "not_offered": "Answer the item that next names in the last reply; GET /v1/sessions/{session} tells it again.",
    "session_finished": "Look at its result with GET /v1/sessions/{session}, or begin another session.",
    "calibration_not_ready": "Wait until the calibration has succeeded; one that failed cannot be activated.",
    "calibration_running": "Wait until the running calibration of this course ends.",
    "calibration_worse": (
        "Leave the calibration before it in force, or look at the report and activate with force, which can be undone."
    ),
    "nothing_to_calibrate": "Collect or import more answers, then calibrate.",
    "too_slow": "Send the same request again, as fast as the connection allows, or send less at once.",
    "header_too_large": "Send a shorter address, and fewer or shorter header fields.",
    "too_large": "Send less at once: split the batch.",
    "unsupported_media_type": "Send uncompressed JSON with the header Content-Type: application/json.",
    "not_acceptable": "Ask in the Accept header for a form that the address offers, or leave the header out.",
    "method_not_allowed": "Use one of the methods in the header Allow.",
    "invalid": "Correct each place that errors names.",
    "prerequisite_cycle": "Remove one of the prerequisites named in the detail, so that some skill comes first.",
    "invalid_score": "Send a score from 0 to the max_score of the item, a whole number if the item is graded.",
    "occurred_in_future": "Correct the clock of the sender; an answer may lie at most five minutes ahead.",
    "invalid_cursor": "Use the cursor exactly as the page before gave it, or start again without one.",
    "invalid_file": "Correct the lines that the command names, or the columns of the file.",
    "rate_limited": (
        "Wait as long as Retry-After says. The header RateLimit of every reply tells what is left; "
        "the operator can raise the quota."
    ),
    "too_many_failures": "Correct the key; one that is valid is taken at once. Else wait as long as Retry-After says.",
    "database_unavailable": "Wait as long as Retry-After says and send the same request again.",
    "overloaded": "Wait as long as Retry-After says and send the same request again; send less at the same time.",
    "stopping": "Send requests to another process, or wait as long as Retry-After says.",
    "invalid_setting": "Correct the environment variable that the message names.",
    "not_migrated": "Run proxima migrate, then start again.",
}
