"""`python -m benchmarks.servers NAME --port N`: one of them, under the server that `proxima serve` uses."""

import argparse
import os

from app.cli.service import run_server
from benchmarks.harness import COURSE
from benchmarks.servers import SERVERS

parser = argparse.ArgumentParser()
parser.add_argument("name", choices=SERVERS)
parser.add_argument("--port", type=int, required=True)
given = parser.parse_args()
run_server(lambda: SERVERS[given.name](os.environ["PROXIMA_DATABASE_URL"], COURSE), "127.0.0.1", given.port, 1)
