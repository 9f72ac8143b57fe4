"""`python -m benchmarks NAME`: runs a benchmark, prints what it found, and writes that as JSON and as a page."""

import argparse
import os
import pkgutil
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import ModuleType

import benchmarks
from benchmarks import facts, report, results
from benchmarks.errors import BenchmarkError
from benchmarks.progress import say
from ingest.errors import IngestError

PREFIX = "bench_"
EXIT_FAILED = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark that the command line names. Returns 1 if one of its checks failed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser(arguments).parse_args(arguments)
    if options.seed is None:
        options.seed = int.from_bytes(os.urandom(6))
    say(f"seed {options.seed}")
    load_average, started_at, start = facts.load_average(), datetime.now(UTC), time.monotonic()
    try:
        findings: results.Findings = options.module.run(options)
    except (IngestError, BenchmarkError) as error:
        say(f"python -m benchmarks: {error}")
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    result = results.Result(
        name=options.name,
        summary=_summary(options.module),
        started_at=started_at,
        duration_seconds=round(time.monotonic() - start, 3),
        command=facts.shown_command(arguments),
        seed=options.seed,
        machine=facts.machine(load_average),
        **{field: getattr(findings, field) for field in results.Findings.__struct_fields__},
    )
    _write(result, options.out)
    if options.json:
        sys.stdout.buffer.write(results.encode(result))
    else:
        report.print_tables(result)
    return 0 if result.passed else EXIT_FAILED


def names() -> list[str]:
    """The benchmarks that there are."""
    found = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return sorted(name.removeprefix(PREFIX) for name in found if name.startswith(PREFIX))


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures the service; benchmarks/README.md.")
    commands = parser.add_subparsers(title="benchmarks", required=True, metavar="NAME", dest="name")
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    # Only the one that is run is imported, so that no other's dependencies are needed; for a list, all that can be.
    for name in [wanted] if wanted in names() else names():
        try:
            module = import_module(f"benchmarks.{PREFIX}{name}")
        except ModuleNotFoundError as error:
            if name == wanted:
                parser.error(f"{name} needs {error.name}. Install the extra: pip install -e '.[bench]'")
            commands.add_parser(name, help=f"(needs {error.name}, of the extra `bench`)")
            continue
        command = commands.add_parser(
            name, help=_summary(module).replace("%", "%%"), description=(module.__doc__ or "").replace("%", "%%")
        )
        command.set_defaults(module=module)
        _add_common_options(command)
        module.add_arguments(command)
    return parser


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    common = parser.add_argument_group("options of every benchmark")
    common.add_argument(
        "--out",
        type=Path,
        default=Path("benchmark-results"),
        metavar="DIR",
        help="where the results go (default: %(default)s)",
    )
    common.add_argument("--json", action="store_true", help="print the result as JSON instead of tables")
    common.add_argument("--seed", type=int, help="(default: drawn anew, so that no two runs share an event id)")
    common.add_argument("--tiny", action="store_true", help="a few seconds' worth, to see that it works; measures nothing")


def _summary(module: ModuleType) -> str:
    return (module.__doc__ or "").partition("\n")[0]


def _write(result: results.Result, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{result.name}-{result.started_at:%Y%m%dT%H%M%SZ}"
    (folder / f"{stem}.json").write_bytes(results.encode(result))
    (folder / f"{stem}.html").write_text(report.page(result), encoding="utf-8")
    say(f"written: {folder / stem}.json and .html")


if __name__ == "__main__":
    sys.exit(main())
