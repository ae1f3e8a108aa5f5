"""One line a request, metrics over all workers, and no learner in either."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from app.core.database import Database
from app.services.keys import create_key
from tests.http.edge import CANARY, edge_client, make_edge
from tests.processes import NO_CERTIFICATES

ROOT = Path(__file__).parents[2]
LONGEST_S = 60.0


@pytest.fixture(autouse=True)
def untouched_logging() -> None:
    """An application that was started earlier in this process may have left its own level behind."""
    structlog.reset_defaults()


def count(**labels: str) -> float:
    return REGISTRY.get_sample_value("proxima_http_requests_total", labels) or 0


@pytest.mark.anyio
async def test_request_is_logged_by_its_route_template(database: Database) -> None:
    key = await database.write(create_key, "school", ["admin"], 1)
    with capture_logs() as lines:
        async with edge_client(make_edge(database)) as client:
            headers = {"authorization": f"Bearer {key.text}"}
            tenant = (await client.get(f"/v1/courses/{CANARY}?x={CANARY}", headers=headers)).json()["tenant"]
            await client.delete(f"/v1/courses/{CANARY}")
            await client.get(f"/{CANARY}")
            await client.get(f"/v1/courses/{CANARY}")
            await client.get("/livez")
            await client.get("/openapi.json")
    told = [line for line in lines if line["event"] == "request"]
    assert [(line["method"], line["route"], line["status"], line["tenant"]) for line in told] == [
        ("GET", "/v1/courses/{course}", 200, tenant),
        ("DELETE", "/v1/courses/{course}", 405, None),
        ("GET", "unmatched", 404, None),
        ("GET", "/v1/courses/{course}", 401, None),
        ("GET", "/livez", 200, None),
        ("GET", "/openapi.json", 200, None),
    ]
    assert all(line["duration_ms"] > 0 and line["request_id"] for line in told)
    assert CANARY not in str(lines)
    assert key.text not in str(lines)


@pytest.mark.anyio
async def test_requests_are_counted_and_timed() -> None:
    labels = {"method": "GET", "route": "/livez"}
    before = count(**labels, status="200"), count(method="other", route="/livez", status="405")
    async with edge_client(make_edge()) as client:
        await client.get("/livez")
        await client.get("/livez")
        await client.request(CANARY, "/livez")
        text = (await client.get("/metrics")).text
    assert count(**labels, status="200") == before[0] + 2
    assert count(method="other", route="/livez", status="405") == before[1] + 1
    assert REGISTRY.get_sample_value("proxima_http_request_duration_seconds_count", labels) == before[0] + 2
    assert "proxima_http_requests_in_flight 1.0" in text
    assert REGISTRY.get_sample_value("proxima_http_requests_in_flight") == 0
    assert CANARY not in text


@pytest.mark.anyio
@pytest.mark.parametrize("given", ["a", "A-z_0.9:@/+=", "x" * 128])
async def test_safe_request_id_is_returned_unchanged(given: str) -> None:
    async with edge_client(make_edge()) as client:
        reply = await client.get("/nowhere", headers={"x-request-id": given})
        assert reply.headers["x-request-id"] == reply.json()["request_id"] == given


@pytest.mark.anyio
@pytest.mark.parametrize("given", ["", " ", "x" * 129, "a b", 'a"b', "a\\nb", "<b>", "\xe9"])
async def test_unsafe_request_id_is_replaced(given: str) -> None:
    headers: Any = {"x-request-id": given.encode("latin-1")}
    async with edge_client(make_edge()) as client:
        seen = {(await client.get("/livez", headers=headers)).headers["x-request-id"] for _ in range(2)}
    assert len(seen) == 2
    assert all(re.fullmatch(r"[0-9a-f]{32}", one) for one in seen)


SCRIPT = f"""
import asyncio, logging, warnings
from app.core.settings import Settings
from tests.http.edge import edge_client, make_served_edge

async def main():
    async with edge_client(make_served_edge()) as client:
        await client.get("/livez")
        await client.get("/v1/broken?x={CANARY}")
        await client.post("/v1/answers", json={{"answers": [{{"id": "{CANARY}"}}]}})
    warnings.warn("a warning")
    logging.getLogger("uvicorn.error").info("from the server")
    logging.getLogger("uvicorn.access").info("{CANARY}")
    logging.getLogger("elsewhere").debug("not at this level")
    try:
        try:
            raise ValueError("{CANARY}")
        except ValueError as error:
            raise RuntimeError("{CANARY}") from error
    except RuntimeError:
        logging.getLogger("elsewhere").exception("it failed")

asyncio.run(main())
"""


def run(**environment: str) -> list[str]:
    command, variables = [sys.executable, "-c", SCRIPT], {**os.environ, **environment}
    done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, check=True, text=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_log_lines_are_json_and_quote_no_user_data() -> None:
    lines = run()
    told = [json.loads(line) for line in lines]
    assert all({"event", "level", "timestamp"} <= line.keys() for line in told)
    assert [line["level"] for line in told] == ["info", "error", "info", "info", "warning", "info", "error"]
    assert [line["status"] for line in told if line["event"] == "request"] == [200, 500, 422]
    unexpected, *_, failed = (line for line in told if "exception" in line)
    assert unexpected["event"] == "unexpected error"
    assert "in broken" in unexpected["exception"]
    assert unexpected["exception"].endswith("builtins.RuntimeError\n")
    assert re.search(r"builtins.ValueError\n.*caused\n.*builtins.RuntimeError\n$", failed["exception"], re.DOTALL)
    assert CANARY not in "\n".join(lines)


def test_log_in_the_console_format_at_debug_has_messages() -> None:
    text = "\n".join(run(PROXIMA_LOG_FORMAT="console", PROXIMA_LOG_LEVEL="debug"))
    assert "from the server" in text
    assert f"RuntimeError: {CANARY}" in text
    assert "not at this level" in text


@pytest.fixture
def two_workers(tmp_path: Path) -> Iterator[str]:
    """The address of the edge served by two processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "uvicorn", "--factory", "tests.http.edge:make_served_edge",
        "--workers", "2", "--port", str(port), "--no-access-log",
    ]  # fmt: skip
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as server:
        yield f"http://127.0.0.1:{port}"
        server.terminate()


def test_metrics_are_those_of_all_workers(two_workers: str, tmp_path: Path) -> None:
    wait_for(lambda: httpx.get(f"{two_workers}/livez", verify=NO_CERTIFICATES).is_success)
    wanted = 'proxima_http_requests_total{method="GET",route="/v1/overloaded",status="503"} '

    def both_have_answered() -> bool:
        httpx.get(f"{two_workers}/v1/overloaded", verify=NO_CERTIFICATES)
        return len(list(tmp_path.glob("counter_*.db"))) == 2

    sent = wait_for(both_have_answered)
    texts = [httpx.get(f"{two_workers}/metrics", verify=NO_CERTIFICATES).text for _ in range(10)]
    seen = {text.split(wanted)[1].split("\n")[0] for text in texts}
    assert seen == {f"{sent:.1f}"}


def wait_for(condition: Callable[[], Any]) -> int:
    """How many times it was asked until it held: the second worker may start long after the first."""
    asked, last = 0, time.monotonic() + LONGEST_S
    while time.monotonic() < last:
        try:
            held = condition()
        except httpx.TransportError:
            time.sleep(0.05)
            continue
        asked += 1
        if held:
            return asked
        time.sleep(0.005)
    raise AssertionError("it did not happen")
