"""Whether locked dependencies have known vulnerabilities: python .ci/audit.py LOCK...

Exits with 1 if one has, and where pip-audit is missing or can't read the files. Where the service that knows can't be asked,
it says so and exits with 0.

pip-audit's exit status does not tell these apart: it is 1 for all, and 0 where the service knows none of the packages, as
behind a mirror. So it first collects what it would ask about, for which it needs no service. What fails later is the
service's fault.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SECONDS_MAX = 180


def main(locks: list[str]) -> int:
    collecting = _pip_audit(locks, "--dry-run")
    if collecting.returncode:
        print(f"pip-audit can't read what it is to audit: {_reason(collecting.stderr)}")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        try:
            said = _pip_audit(locks, "--output", str(report)).stderr
            dependencies: list[dict[str, Any]] = json.loads(report.read_text())["dependencies"]
        except subprocess.TimeoutExpired:
            return _not_audited(f"no answer within {SECONDS_MAX} s")
        except FileNotFoundError:
            return _not_audited(_reason(said))
    audited = [dependency for dependency in dependencies if "vulns" in dependency]
    if not audited:
        return _not_audited(f"the vulnerability service knows none of the {len(dependencies)} packages")
    for dependency in audited:
        for found in dependency["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "none yet"
            print(f"{dependency['name']} {dependency['version']}: {found['id']}, fixed in: {fixed}")
    print(f"{len(audited)} of {len(dependencies)} packages audited.")
    return 1 if any(dependency["vulns"] for dependency in audited) else 0


def _pip_audit(locks: list[str], *options: str) -> subprocess.CompletedProcess[str]:
    requirements = [argument for lock in locks for argument in ("--requirement", lock)]
    always = ("--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json")
    command = [sys.executable, "-m", "pip_audit", *requirements, *always, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX)


def _reason(said: str) -> str:
    """The line that tells most: an error comes before advice, an exception after its stack."""
    lines = said.strip().splitlines() or ["no reason given"]
    return next((line for line in lines if line.startswith("ERROR:")), lines[-1])


def _not_audited(reason: str) -> int:
    print(f"NOTE: not audited: {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
