"""What runs when. `pytest` alone runs everything that is asked for; these options are for the targets of the Makefile.

--gate            without the controls and simulations whose stamp says that they passed and nothing they depend on
                  has changed since; laws are tried on fewer examples
--rest            what `--gate` did not run on this very tree, and all laws on all their examples; fails if a stamp is
                  not what it must be
--stamp           only controls and simulations without a valid stamp; stamps those modules whose tests all passed
--note-durations  writes how long each module takes: those that take long come first, so that none is left at the end
"""

import inspect
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import is_hypothesis_test, settings

from tests.gate import examples  # noqa: F401 (registers the profiles)
from tests.gate.dependencies import ROOT, digest, tree

STAMPS = ROOT / "tests/gate/stamps.json"
DURATIONS = ROOT / "tests/gate/durations.json"
BY_HASH = ("controls", "statistics")
PASSED = "proxima/passed"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gate")
    group.addoption("--gate", action="store_true", help="leave out controls and simulations that have not changed")
    group.addoption("--rest", action="store_true", help="run what --gate left out on this tree, and check the stamps")
    group.addoption("--stamp", action="store_true", help="run controls and simulations, and write their stamps")
    group.addoption("--note-durations", action="store_true", help="write how long each module takes")


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile("gate" if config.option.gate else "all" if is_ours(config) else "desk")
    if config.option.stamp and config.option.keyword:
        raise pytest.UsageError("--stamp stamps whole modules; leave -k out")
    config.pluginmanager.register(Selection(config), "gate-selection")
    if not hasattr(config, "workerinput") and not config.option.collectonly:
        config.pluginmanager.register(Results(config), "gate-results")


def is_ours(config: pytest.Config) -> bool:
    """Whether this is a run whose result counts: it must not fall by chance."""
    return bool(config.option.rest or config.option.stamp or "CI" in os.environ)


def module_of(nodeid: str) -> str:
    """The file of a test."""
    return nodeid.partition("::")[0]


def read_json(path: Path) -> dict[str, Any]:
    """What a file of the gate holds; nothing if there is none."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def write_json(path: Path, content: dict[str, Any]) -> None:
    """One line for each module, in order: two branches then rarely change the same lines."""
    path.write_text(json.dumps(dict(sorted(content.items())), indent=0) + "\n")


def by_hash(item: pytest.Item) -> bool:
    """Whether a test need not run again as long as nothing it depends on has changed."""
    return any(item.get_closest_marker(name) for name in BY_HASH)


def tries_examples(item: pytest.Item) -> bool:
    """Whether `--gate` tried a test on fewer examples than it asks for."""
    return is_hypothesis_test(getattr(item, "obj", None)) or item.get_closest_marker("examples") is not None


def hashes(items: Sequence[pytest.Item]) -> dict[str, str]:
    """For each module with controls or simulations, the hash of what these depend on."""
    sources: dict[str, set[Path]] = defaultdict(set)
    for item in filter(by_hash, items):
        read = (ROOT / name for marker in item.iter_markers("reads") for name in marker.args)
        sources[module_of(item.nodeid)] |= {item.path, *fixture_files(item), *read}
    return {module: digest(paths, settings_of(module)) for module, paths in sources.items()}


def settings_of(module: str) -> Iterator[Path]:
    """The `conftest.py` that a module is run with; what one imports for others is no matter."""
    folders = (ROOT / module).parents
    return (folder / "conftest.py" for folder in folders if (folder / "conftest.py").is_file())


def fixture_files(item: pytest.Item) -> Iterator[Path]:
    """The files of this project in which the fixtures of a test are written."""
    for definitions in getattr(item, "_fixtureinfo").name2fixturedefs.values():  # noqa: B009 (not in its type)
        for definition in definitions:
            path = Path(inspect.unwrap(definition.func).__code__.co_filename)
            if path.is_relative_to(ROOT / "tests"):
                yield path


class Selection:
    """In every worker: which of the collected tests run, and in which order."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.hashes: dict[str, str] = {}
        self.unchanged = 0
        self.with_examples: list[str] = []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        option = self.config.option
        if option.gate or option.rest or option.stamp:
            self.hashes = hashes(items)
            self.with_examples = [item.nodeid for item in items if tries_examples(item)]
        durations = read_json(DURATIONS)
        items.sort(key=lambda item: -durations.get(module_of(item.nodeid), 0.0))
        left_out = self.left_out(items)
        if left_out:
            self.config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
            items[:] = [item for item in items if item.nodeid not in left_out]

    def left_out(self, items: Sequence[pytest.Item]) -> set[str]:
        """The tests that do not run."""
        option = self.config.option
        if option.rest:
            return set(passed_by_gate(self.config))
        if not (option.gate or option.stamp):
            return set()
        stamps = read_json(STAMPS)
        current = {module for module, found in self.hashes.items() if stamps.get(module) == found}
        unchanged = {item.nodeid for item in items if by_hash(item) and module_of(item.nodeid) in current}
        if option.stamp:
            return unchanged | {item.nodeid for item in items if not by_hash(item)}
        self.unchanged = len(unchanged)
        return unchanged

    def pytest_sessionfinish(self) -> None:
        """A worker tells the process that started it what it has seen."""
        output = getattr(self.config, "workeroutput", None)
        if output is not None:
            output["gate"] = self.seen()

    def seen(self) -> dict[str, Any]:
        """What was collected."""
        return {"hashes": self.hashes, "unchanged": self.unchanged, "with_examples": self.with_examples}


def passed_by_gate(config: pytest.Config) -> list[str]:
    """The tests that passed in the last run with `--gate`, if nothing has changed since."""
    cache = config.cache
    assert cache is not None
    found: dict[str, Any] = cache.get(PASSED, {})
    return list(found.get("tests", [])) if found.get("tree") == tree() else []


class Results:
    """In the process that tells the results: what passed, how long it took, and what is to be written of that."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.began_with = tree()
        self.seconds: dict[str, float] = defaultdict(float)
        self.bad: set[str] = set()
        self.seen: set[str] = set()
        self.selection: dict[str, Any] = {"hashes": {}, "unchanged": 0, "with_examples": []}
        self.faults: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[module_of(report.nodeid)] += report.duration
        self.seen.add(report.nodeid)
        if report.failed:
            self.bad.add(report.nodeid)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.selection.update(getattr(node, "workeroutput", {}).get("gate", {}))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        option = self.config.option
        if not self.config.getoption("numprocesses", None):
            own: Any = self.config.pluginmanager.get_plugin("gate-selection")
            self.selection = own.seen()
        if option.note_durations:
            write_json(DURATIONS, {module: round(seconds, 1) for module, seconds in self.seconds.items()})
        if option.gate and self.config.cache is not None:
            passed = self.seen - self.bad - set(self.selection["with_examples"]) if tree() == self.began_with else ()
            self.config.cache.set(PASSED, {"tree": self.began_with, "tests": sorted(passed)})
        if option.stamp:
            self.write_stamps()
            if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:  # all have their stamps
                session.exitstatus = pytest.ExitCode.OK
        if option.rest and self.is_whole():
            self.faults = self.wrong_stamps()
            if self.faults and exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """What a count of passed tests does not say."""
        if self.selection["unchanged"]:
            terminalreporter.write_line(
                f"{self.selection['unchanged']} controls and simulations did not run: nothing they depend on has"
                " changed since they passed (`make test-all` runs them)"
            )
        for fault in self.faults:
            terminalreporter.write_line(f"STAMP {fault}; run `make stamps`", red=True)

    def is_whole(self) -> bool:
        """Whether the tests of all modules were collected."""
        return self.config.args_source is pytest.Config.ArgsSource.TESTPATHS

    def write_stamps(self) -> None:
        """Stamp the modules all of whose tests passed; what is not there any more has no stamp."""
        bad = {module_of(nodeid) for nodeid in self.bad}
        found = {module: stamp for module, stamp in self.selection["hashes"].items() if module not in bad}
        others = {} if self.is_whole() else {m: stamp for m, stamp in read_json(STAMPS).items() if m not in bad}
        write_json(STAMPS, others | found)

    def wrong_stamps(self) -> list[str]:
        """Where the stamps are not what the tests of this tree say."""
        stamps, found = read_json(STAMPS), self.selection["hashes"]
        return [
            f"{module} {'has no stamp' if module not in stamps else 'is not stamped for these files'}"
            for module in sorted(stamps | found)
            if stamps.get(module) != found.get(module)
        ]
