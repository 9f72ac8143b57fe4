"""What ends a benchmark with one line for people."""


class BenchmarkError(Exception):
    """The benchmark can't be run as it was asked to. The message says why and what to do."""
