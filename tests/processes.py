"""Processes of the program that start at once: forked from one that has imported it.

Else each would spend seconds on imports, most of what a test with processes costs. They are processes like any other:
with an environment, a folder and streams of their own, a number that can be killed, and an end that can be waited for.
`multiprocessing`'s server of forks does the work; a process that must be started as a user starts it has no place here.
"""

import marshal
import multiprocessing
import os
import runpy
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import process as ours
from multiprocessing import reduction
from pathlib import Path
from subprocess import DEVNULL, PIPE
from threading import Thread
from types import ModuleType
from typing import IO, Any, TextIO, cast

import uvicorn._subprocess

PROXIMA = "from app.cli import main; main()"
# For who calls such a process over HTTP: to load the certificates takes longer than the call.
NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
PRELOADED = ["app.cli.service", "app.main", "app.jobs.calibrations", "httpx"]

# What a new interpreter would do.
CLOCK = Path(__file__).parent / "clock/sitecustomize.py"

forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(PRELOADED)


class Stream:
    """A file descriptor that is handed to another process."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return received, (reduction.DupFd(self.number),)


def received(copy: Any) -> Stream:
    """The stream in the process it was handed to."""
    return Stream(copy.detach())


class Started:
    """A process that was started; used as a `subprocess.Popen` of text."""

    def __init__(self, process: Any, args: Sequence[str], pipes: Sequence[TextIO | None]) -> None:
        self._process = process
        self.args = args
        self.pid: int = process.pid
        self.stdin, self.stdout, self.stderr = pipes

    @property
    def returncode(self) -> int | None:
        """How it ended, if it has."""
        code: int | None = self._process.exitcode
        return code

    def poll(self) -> int | None:
        """The same."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Its output and its errors, up to its end."""
        if self.stdin is not None:
            self.stdin.close()
        with ThreadPoolExecutor(2) as readers:
            texts = [readers.submit(stream.read if stream else str) for stream in (self.stdout, self.stderr)]
            self.wait(timeout)
            output, errors = (text.result() for text in texts)
        self.close()
        return output, errors

    def close(self) -> None:
        """Let go of its streams."""
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Tell it to stop."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def start(
    arguments: Sequence[str | Path],
    *,
    program: str = PROXIMA,
    env: Mapping[str, str] | None = None,
    cwd: Path | str = ".",
    stdin: int = DEVNULL,
    stdout: IO[Any] | int = DEVNULL,
    stderr: IO[Any] | int = DEVNULL,
    start_new_session: bool = False,
) -> Started:
    """Run a program, the command line unless it is said, with arguments; the rest as for `subprocess.Popen`."""
    words = [str(argument) for argument in arguments]
    with ExitStack() as after:
        ends = [ends_of(stream, number == 0, after) for number, stream in enumerate((stdin, stdout, stderr))]
        handed = [Stream(theirs) for theirs, _ in ends]
        environment = dict(os.environ if env is None else env)
        process = forks.Process(
            target=become, args=(program, words, environment, str(Path(cwd).resolve()), handed, start_new_session)
        )
        process.start()
    return Started(process, words, [own for _, own in ends])


def ends_of(stream: IO[Any] | int, is_input: bool, after: ExitStack) -> tuple[int, TextIO | None]:
    """The end of a stream that the process gets, and ours if it is a pipe."""
    if not isinstance(stream, int):
        return stream.fileno(), None
    if stream == DEVNULL:
        theirs = os.open(os.devnull, os.O_RDWR)
        after.callback(os.close, theirs)
        return theirs, None
    if stream != PIPE:
        return stream, None
    reading, writing = os.pipe()
    theirs, own = (reading, writing) if is_input else (writing, reading)
    after.callback(os.close, theirs)
    return theirs, open(own, "w" if is_input else "r", encoding="utf-8")  # noqa: PTH123


def become(
    program: str,
    arguments: list[str],
    environment: dict[str, str],
    folder: str,
    streams: list[Stream],
    leads: bool,
) -> None:
    """Be the process that was asked for."""
    if leads:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream.number, number)
        os.close(stream.number)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115 (for as long as it lives)
        for number, mode in enumerate("rww")
    )
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    runpy.run_path(str(CLOCK))
    # So do its workers start at once.
    uvicorn._subprocess.spawn = cast("Any", Forks())
    # For the program it is the first process, not one of a pool.
    ours._parent_process = None  # type: ignore[attr-defined]
    sys.argv = ["proxima", *arguments]
    main = sys.modules["__main__"] = ModuleType("__main__")
    exec(compile(program, "<program>", "exec"), main.__dict__)  # noqa: S102 (it is what the test says)


class Forks:
    """A context of processes that are forked from the one that starts them, without its handlers of signals."""

    def Process(self, target: Callable[..., None], kwargs: dict[str, Any]) -> Any:  # noqa: N802 (a context has it)
        """A process that is yet to be started."""
        return multiprocessing.get_context("fork").Process(target=without_handlers, args=(target, kwargs))


def without_handlers(target: Callable[..., None], kwargs: dict[str, Any]) -> None:
    """Begin with the signals as a new process has them."""
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    target(**kwargs)


# The command in a shell: a small program that hands its arguments, its environment and its streams over, and ends as
# the process ends that was started with them.
COMMAND = """#!{python} -IS
import _socket, array, marshal, os, sys
line = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
line.connect({address!r})
request = marshal.dumps((sys.argv[1:], dict(os.environ), os.getcwd()))
streams = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
line.sendmsg([len(request).to_bytes(4, "big")], streams)
line.sendall(request)
os._exit(int.from_bytes(line.recv(1), "big"))
"""


@contextmanager
def command_at(path: Path) -> Iterator[None]:
    """`proxima` as a program at the path, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="proxima-") as folder, socket.socket(socket.AF_UNIX) as listener:
        address = f"{folder}/socket"  # a short one: it has room for a hundred characters
        path.write_text(COMMAND.format(python=sys.executable, address=address))
        path.chmod(0o755)
        listener.bind(address)
        listener.listen()
        server = Thread(target=obey, args=(listener,))
        server.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        server.join()


def obey(listener: socket.socket) -> None:
    """Start what is asked for, until nobody can ask any more."""
    with suppress(OSError), ThreadPoolExecutor() as workers:
        while True:
            workers.submit(answer, listener.accept()[0])


def answer(line: socket.socket) -> None:
    """Start a process for one that asks, and tell it how it ended."""
    with line:
        length, streams, _, _ = socket.recv_fds(line, 4, 3)
        with line.makefile("rb") as request:
            words, environment, folder = marshal.loads(request.read(int.from_bytes(length, "big")))  # noqa: S302 (ours)
        stdin, stdout, stderr = streams
        process = start(words, env=environment, cwd=folder, stdin=stdin, stdout=stdout, stderr=stderr)
        for stream in streams:
            os.close(stream)
        line.sendall((process.wait() & 0xFF).to_bytes(1, "big"))
