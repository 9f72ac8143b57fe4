"""Runs one target until its time is over or an input is found that it fails on; then the exit status is not 0."""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import atheris

from tests.fuzz import CASES, TARGETS

# What counts as covered: what is examined, and what it is held against, so that inputs that are new to either are kept.
INSTRUMENTED = ["ingest.web", "ingest.store.rows", "tests.reference", "tests.fuzz"]

INPUT_BYTES_MAX = 4096
INPUT_SECONDS_MAX = 10
MEMORY_MIB_MAX = 2048


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=300, help="how long to look (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers; 0: another one each time")
    parser.add_argument("--corpus", type=Path, help="where inputs that cover more are kept from run to run (.fuzz/TARGET)")
    parser.add_argument("--cases", type=Path, help="where to put what is found (tests/fuzz/cases/TARGET)")
    asked = parser.parse_args()
    cases: Path = asked.cases or CASES / asked.target
    corpus: Path = asked.corpus or Path(".fuzz", asked.target)

    with atheris.instrument_imports(include=INSTRUMENTED):
        target: Any = importlib.import_module(f"tests.fuzz.{asked.target}")
    for folder in (cases, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    for name, seed in target.SEEDS.items():
        (corpus / f"seed-{name}").write_bytes(seed)
    tokens = corpus.with_suffix(".tokens")
    tokens.write_text("".join(f'"{_quoted(token)}"\n' for token in target.TOKENS))
    atheris.Setup(
        [
            sys.argv[0],
            str(corpus),
            str(cases),
            f"-artifact_prefix={cases}/",
            f"-dict={tokens}",
            f"-max_len={INPUT_BYTES_MAX}",
            f"-max_total_time={asked.seconds}",
            f"-rss_limit_mb={MEMORY_MIB_MAX}",
            f"-seed={asked.seed}",
            f"-timeout={INPUT_SECONDS_MAX}",
            "-print_final_stats=1",
        ],
        target.examine,
    )
    atheris.Fuzz()


def _quoted(token: bytes) -> str:
    """As libFuzzer's dictionaries have it."""
    return "".join(f"\\x{byte:02x}" for byte in token)


main()
