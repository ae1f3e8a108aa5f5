"""The list of what a release contains (SBOM), as CycloneDX 1.6: every package of `requirements/runtime.lock`.

    python -m tests.sbom > dist/proxima-1.2.3.cdx.json

Licences are those that the installed packages declare. CycloneDX binds hashes to one file, and the lock has those of
all wheels of a version, so they are properties.
"""

import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from app import __version__

LOCK = Path(__file__).parents[1] / "requirements" / "runtime.lock"
PACKAGE = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^\s;\\]+)(?: ; (?P<marker>[^\\\n]+?))? *(?:\\|$)", re.MULTILINE)
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def read_sbom(lock: str) -> dict[str, Any]:
    """The document for a lock."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "proxima",
                "name": "proxima",
                "version": __version__,
                "licenses": [{"expression": "Apache-2.0"}],
            }
        },
        "components": list(read_components(lock)),
    }


def read_components(lock: str) -> Iterator[dict[str, Any]]:
    """The packages of a lock, in its order."""
    found = list(PACKAGE.finditer(lock))
    ends = [*(match.start() for match in found[1:]), len(lock)]
    for match, end in zip(found, ends, strict=True):
        name, version, marker = match["name"], match["version"], match["marker"]
        address = f"pkg:pypi/{name.lower()}@{version}"
        properties = [("proxima:sha256", digest) for digest in HASH.findall(lock[match.start() : end])]
        properties += [("proxima:only-if", marker)] if marker else []
        yield {
            "type": "library",
            "bom-ref": address,
            "name": name,
            "version": version,
            "purl": address,
            "licenses": find_licences(name, version),
            "properties": [{"name": key, "value": value} for key, value in properties],
        }


def find_licences(name: str, version: str) -> list[dict[str, Any]]:
    """The licences an installed package declares; none if this version is not installed."""
    try:
        declared = metadata(name)
    except PackageNotFoundError:
        return []
    if declared["Version"] != version:
        return []
    if declared["License-Expression"]:
        return [{"expression": declared["License-Expression"]}]
    classifiers = [text.rpartition(" :: ")[2] for text in declared.get_all("Classifier", []) if "License ::" in text]
    named = classifiers or [line for line in (declared["License"] or "").splitlines() if line][:1]
    return [{"license": {"name": text}} for text in named]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(read_sbom(LOCK.read_text()), indent=1) + "\n")
