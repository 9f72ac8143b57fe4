"""llm-analytics-ingest: LLM usage events in bulk into PostgreSQL with TimescaleDB, each once, for good."""

from importlib.metadata import version

__version__ = version("llm-analytics-ingest")
