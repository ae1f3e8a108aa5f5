"""The list of a release's contents is that of the lock."""

import re

from app import __version__
from tests.sbom import LOCK, read_sbom


def test_sbom_lists_every_package_of_the_lock_with_all_hashes() -> None:
    lock = LOCK.read_text()
    components = read_sbom(lock)["components"]
    assert [f"{each['name']}=={each['version']}" for each in components] == re.findall(
        r"^[\w.-]+==[^\s;]+", lock, re.MULTILINE
    )
    hashes = [
        entry["value"] for each in components for entry in each["properties"] if entry["name"] == "proxima:sha256"
    ]
    assert hashes == re.findall(r"sha256:(\w+)", lock)


def test_sbom_names_the_version_and_the_licences() -> None:
    document = read_sbom(LOCK.read_text())
    assert document["metadata"]["component"]["version"] == __version__
    without = {each["name"] for each in document["components"] if not each["licenses"]}
    assert without <= {each["name"] for each in document["components"] if is_conditional(each)}


def is_conditional(component: dict[str, list[dict[str, str]]]) -> bool:
    """Whether a package is installed only on some machines."""
    return any(entry["name"] == "proxima:only-if" for entry in component["properties"])


def test_sbom_reads_a_lock_with_markers_and_reports_what_is_not_installed() -> None:
    [first, second] = read_sbom(f"no-such-package==1 ; os_name == 'nt' \\\n    --hash=sha256:{'a' * 64}\nb==2\n")[
        "components"
    ]
    assert (first["licenses"], is_conditional(first), is_conditional(second)) == ([], True, False)
    assert [entry["value"] for entry in first["properties"]] == ["a" * 64, "os_name == 'nt'"]
    assert second["purl"] == "pkg:pypi/b@2"
