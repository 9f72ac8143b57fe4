"""llm-analytics-ingest: takes LLM usage events in bulk and puts them into PostgreSQL with TimescaleDB, each once, for good."""

from importlib.metadata import version

__version__ = version("llm-analytics-ingest")
