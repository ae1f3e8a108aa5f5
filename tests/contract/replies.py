"""What every reply must be."""

from typing import Any

import httpx


def check_problem(reply: httpx.Response, status: int, code: str, what: object) -> dict[str, Any]:
    """The problem, if the reply is that one; `what` was sent."""
    problem: dict[str, Any] = reply.json() if reply.content else {}
    assert (reply.status_code, problem.get("code")) == (status, code), (what, reply.text[:500])
    assert reply.headers["content-type"] == "application/problem+json", what
    check_headers(reply, what)
    assert (problem["status"], problem["request_id"]) == (status, reply.headers["x-request-id"]), what
    assert problem["detail"], what
    return problem


def check_json(reply: httpx.Response, status: int, what: object) -> Any:
    """What a good reply holds."""
    assert reply.status_code == status, (what, reply.text[:500])
    assert reply.headers["content-type"] == "application/json", what
    check_headers(reply, what)
    return reply.json()


def check_headers(reply: httpx.Response, what: object) -> None:
    assert reply.headers["x-content-type-options"] == "nosniff", what
    assert reply.headers["x-request-id"], what
    if reply.request.headers.get("authorization") and reply.is_success:
        assert reply.headers["cache-control"] == "no-store", what
