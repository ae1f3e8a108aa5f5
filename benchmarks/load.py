"""Many clients, each on one connection, each waiting for its reply: a closed loop without a library in the way."""

import asyncio
import json
import time
from dataclasses import dataclass
from itertools import count
from random import Random

CORRECT = 0.65


@dataclass(frozen=True)
class Load:
    """What one run measured: answers a second, and the latencies in milliseconds, sorted."""

    rate: float
    latencies: list[float]

    def quantile(self, share: float) -> float:
        """The latency that `share` of the requests stay under."""
        return self.latencies[min(int(share * len(self.latencies)), len(self.latencies) - 1)]


async def run(port: int, path: str, key: str, clients: int, seconds: float, shape: tuple[int, int]) -> Load:
    """Send answers of random learners to random items, `shape` of them, for some seconds."""
    numbers, stop_at = count(), time.perf_counter() + seconds
    latencies: list[float] = []
    started = time.perf_counter()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    )

    async def client(number: int) -> None:
        chance = Random(number + int(started * 1000))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < stop_at:
            answer = {
                "id": f"{int(started * 1000)}-{next(numbers)}",
                "learner": f"learner-{chance.randrange(shape[0])}",
                "item": f"item-{chance.randrange(shape[1])}",
                "correct": chance.random() < CORRECT,
            }
            body = json.dumps(answer)
            sent = time.perf_counter()
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            await read_reply(reader)
            latencies.append((time.perf_counter() - sent) * 1000)
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    elapsed = time.perf_counter() - started
    return Load(len(latencies) / elapsed, sorted(latencies))


async def read_reply(reader: asyncio.StreamReader) -> bytes:
    """The body of a reply, which must be 201."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
    body = await reader.readexactly(length)
    if b" 201 " not in lines[0]:
        raise RuntimeError(f"{lines[0].decode()}: {body[:500].decode()}")
    return body
