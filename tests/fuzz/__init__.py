"""Coverage-guided fuzzing of what reads a client's bytes, with atheris (libFuzzer).

    python -m tests.fuzz decode --seconds 600

A target is a module with `examine`, which raises what it finds wrong with an input; `SEEDS`, inputs to begin with; and
`TOKENS`, what such inputs are made of. What a run finds is put under cases/<target>/ and stays there: tests replay it, with
atheris or without.
"""

from pathlib import Path

CASES = Path(__file__).with_name("cases")
TARGETS = ("decode", "inflate")
