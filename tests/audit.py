"""``make audit``: known vulnerabilities of the pinned versions, and what the environment is made of as an SBOM.

It ends with 1 when a pinned version has a known vulnerability. Where the service that knows them cannot be reached, or
does not know a package, it says so: nothing was found is not the same as nothing was looked at.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PINNED = ROOT / "constraints.txt"
SHOWN = 5  # of the packages that nobody could look at


def main(tools: str, environment: str, sbom: str) -> int:
    """``tools`` holds the programs; ``environment`` is described in the file ``sbom`` (CycloneDX, JSON)."""
    Path(sbom).parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([f"{tools}/cyclonedx-py", "environment", environment, "--of", "JSON", "-o", sbom], check=True)
    print(f"SBOM: {sbom}")
    options = ["--no-deps", "--disable-pip", "--format=json", "--progress-spinner=off"]
    asked = subprocess.run([f"{tools}/pip-audit", "-r", PINNED, *options], capture_output=True, text=True)
    if not asked.stdout.strip():
        print(f"not audited: {(asked.stderr.strip().splitlines() or ['no answer'])[-1]}")
        return 0
    lines, status = verdict(json.loads(asked.stdout)["dependencies"])
    print("\n".join(lines))
    return status


def verdict(dependencies: Sequence[dict[str, Any]]) -> tuple[list[str], int]:
    """What to say of pip-audit's answer, and the exit status."""
    lines = [
        f"{d['name']} {d['version']}: {v['id']}, mended in {', '.join(v['fix_versions']) or 'no version'}"
        for d in dependencies
        for v in d.get("vulns", [])
    ]
    status = 1 if lines else 0
    skipped = [d for d in dependencies if "skip_reason" in d]
    lines.append(f"audited: {len(dependencies) - len(skipped)} of {len(dependencies)} pinned versions")
    if skipped:
        names = [d["name"] for d in skipped]
        shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} others" if len(names) > SHOWN else "")
        lines.append(f"not audited: {shown} ({skipped[0]['skip_reason']})")
    return lines, status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
