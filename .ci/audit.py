"""Whether locked dependencies have known vulnerabilities: python .ci/audit.py LOCK...

Exits with 1 if one has. Where the service that knows can't be asked, it says so and exits with 0. pip-audit's exit status
does not tell these apart, and where its service does not know a package, as behind a mirror, it says that nothing was found.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SECONDS_MAX = 180


def main(locks: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        requirements = [argument for lock in locks for argument in ("--requirement", lock)]
        options = [
            "--require-hashes",
            "--disable-pip",
            "--progress-spinner",
            "off",
            "--format",
            "json",
            "--output",
            str(report),
        ]
        command = [sys.executable, "-m", "pip_audit", *requirements, *options]
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX).stderr
            dependencies: list[dict[str, Any]] = json.loads(report.read_text())["dependencies"]
        except subprocess.TimeoutExpired:
            return _not_audited(f"no answer within {SECONDS_MAX} s")
        except (FileNotFoundError, json.JSONDecodeError):
            return _not_audited((said.strip().splitlines() or ["no reason given"])[-1])
    audited = [dependency for dependency in dependencies if "vulns" in dependency]
    if not audited:
        return _not_audited(f"the vulnerability service knows none of the {len(dependencies)} packages")
    for dependency in audited:
        for found in dependency["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "none yet"
            print(f"{dependency['name']} {dependency['version']}: {found['id']}, fixed in: {fixed}")
    print(f"{len(audited)} of {len(dependencies)} packages audited.")
    return 1 if any(dependency["vulns"] for dependency in audited) else 0


def _not_audited(reason: str) -> int:
    print(f"NOTE: not audited: {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
