"""Realistic usage events and message archives, made from a seed; as a program, gzip batches ready to be sent.

What makes them realistic is what a database feels: a few teams, services and models have most of the calls, ids are
spread, arrivals come in bursts, token counts and latencies have long tails, text is in many scripts, and optional
fields are missing now and then. Arrival times and token counts can be those of a recorded trace instead.
"""

# ruff: noqa: RUF001 - text in other scripts has letters that look like Latin ones; that is what it is here for.

import argparse
import csv
import gzip
import math
import os
import sys
from array import array
from bisect import bisect
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from heapq import merge
from itertools import accumulate, islice
from operator import itemgetter
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, TypeVar

import msgspec

T = TypeVar("T")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

SPAN = timedelta(minutes=5)

ERROR_SHARE = 0.025
PROMPT_SHARE = 0.20
EXTRA_SHARE = 0.30
LATENCY_MISSING_SHARE = 0.03
STATUS_MISSING_SHARE = 0.05

BURST_SHARE = 0.3
"""How many of the calls belong to a burst, within which they arrive BURST_RATE times as fast as outside."""
BURST_RATE = 8.0
BURST_EVENTS_MEAN = 40

CONTEXT_TOKENS_MAX = 200_000
GENERATED_TOKENS_MAX = 16_384

PROMPT_SENTENCES_MAX = 8
ARCHIVE_CHARS_MIN = 300
ARCHIVE_CHARS_MAX = 4000

# The people and programs that make the calls, and the sentences they use, are the same for every seed, so that several
# generators at once look like one company and not like several.
POPULATION_SEED = 20_250_101
USERS = 5000
SENTENCES_PER_LANGUAGE = {"en": 3000, "de": 300, "es": 300, "fr": 300, "ru": 200, "ja": 200, "zh": 200, "hi": 100}
ENGLISH_SHARE = 0.7

COUNT_DEFAULT = 10_000


class Model(NamedTuple):
    """An LLM, how fast it generates, and how long it takes to begin."""

    name: str
    provider: str
    tokens_per_second: float
    first_token_ms: float


class User(NamedTuple):
    """Who calls: a user belongs to one team."""

    user_id: str
    team: str
    services: tuple[str, ...]
    """Those of the team, the most used one first."""


class Failure(NamedTuple):
    """What a failed call answers."""

    status_code: int
    error_type: str


MODELS = (
    Model("gpt-4o-mini", "openai", 95, 380),
    Model("claude-sonnet-4", "anthropic", 70, 850),
    Model("gpt-4o", "openai", 80, 520),
    Model("gemini-2.5-flash", "google", 210, 330),
    Model("claude-3-5-haiku", "anthropic", 85, 600),
    Model("gpt-4.1", "openai", 75, 560),
    Model("llama-3.3-70b-instruct", "meta", 110, 300),
    Model("gemini-2.5-pro", "google", 130, 1900),
    Model("mistral-large-2411", "mistral", 45, 540),
    Model("claude-opus-4", "anthropic", 40, 1700),
    Model("o4-mini", "openai", 120, 4200),
    Model("mistral-small-2503", "mistral", 130, 280),
)

SERVICES = (
    "chat-assistant", "code-completion", "document-search", "support-copilot", "email-drafts", "ticket-triage",
    "meeting-notes", "translation", "code-review", "sql-assistant", "contract-analysis", "content-moderation",
    "product-descriptions", "lead-scoring", "invoice-extraction", "onboarding-guide", "release-notes", "log-explainer",
    "survey-summaries", "knowledge-base", "voice-transcripts", "fraud-review", "resume-screening", "data-labeling",
    "test-generation",
)  # fmt: skip

TEAMS = (
    "platform", "customer-support", "search", "payments", "growth", "data-science", "mobile", "web", "sales", "legal",
    "marketing", "finance", "security", "infrastructure", "logistics", "human-resources", "research", "recommendations",
    "identity", "catalog", "pricing", "fraud", "messaging", "analytics", "developer-experience", "localization",
    "partnerships", "compliance", "media", "quality", "billing", "inventory", "ads", "risk", "education", "healthcare",
    "internal-tools", "observability", "procurement", "facilities",
)  # fmt: skip

FAILURES = (
    Failure(429, "rate_limit_exceeded"),
    Failure(503, "overloaded"),
    Failure(500, "internal_server_error"),
    Failure(400, "invalid_request"),
    Failure(503, "upstream_timeout"),
    Failure(400, "context_length_exceeded"),
)

REGIONS = ("eu-west-1", "us-east-1", "eu-central-1", "us-west-2", "ap-southeast-1")
SDKS = ("python", "typescript", "go", "java")
SDK_VERSIONS = ("1.42.0", "1.41.3", "1.40.1", "1.38.0", "2.0.0-rc1")
EMOJI = ("🙏", "😊", "🚀", "🤔", "👍🏽", "❤️", "👩‍💻", "🇪🇺", "😅", "✅")

WORDS = {
    "product": (
        "PostgreSQL", "Kubernetes", "Excel", "Jira", "SAP", "Terraform", "Salesforce", "React", "Kafka", "Grafana",
        "Stripe", "Django", "Figma", "Redis", "GitHub Actions", "Power BI", "Zendesk", "OpenSearch", "Spark", "Linux",
    ),
    "name": (
        "Anna", "Jürgen", "Daniel", "José", "Sofia", "Priya", "Łukasz", "Chloé", "Erik", "Ngọc", "Elif", "Mateo",
        "Fatima", "Hiroshi", "Olena", "Thabo", "Claire", "Malik", "Siobhán", "Wei",
    ),
    "thing": (
        "contract", "error log", "quarterly report", "customer complaint", "database schema", "meeting transcript",
        "unit test", "invoice", "landing page", "support ticket", "dashboard", "pull request", "press release",
        "user survey", "migration plan", "API specification", "onboarding guide", "budget", "data set", "job offer",
    ),
    "style": (
        "short", "formal", "friendly", "very detailed", "step-by-step", "concise", "non-technical", "bulleted",
        "well structured", "neutral", "persuasive", "table-like",
    ),
    "goal": (
        "cut the response time", "reduce the monthly cost", "avoid a second outage", "convince the steering committee",
        "answer the auditor", "explain it to a new colleague", "find the root cause", "ship before Friday",
        "keep the old behaviour", "get rid of the duplicates", "support two more languages", "pass the security review",
    ),
}  # fmt: skip

TEMPLATES = {
    "en": (
        "Please summarize this {thing} in {number} bullet points for {name}.",
        "Can you write a {style} {thing} that helps us to {goal}?",
        "We use {product} {number}.{number} and would like to {goal}.",
        "{name} asked whether the {thing} can be moved from {product} to {product}.",
        "The {thing} should be {style} and must not be longer than {number} words.",
        "Since the update of {product} the {thing} shows {number} rows instead of {number}.",
        "Explain why our {thing} takes {number} seconds to load, and how to {goal}.",
        "First check the {thing}, then compare it with the {thing} that {name} sent {number} days ago.",
        "Translate the {thing} for our customers of {product}, in a {style} tone.",
        "To {goal}, the {thing} needs a {style} introduction and {number} examples.",
        "In {product}, open the settings, choose '{thing}' and raise the limit from {number} to {number}.",
        "Case #{number}{number}: {name} and {name} disagree about the {thing}; what would you recommend?",
        "I tried {product} as well as {product}, but neither could {goal}.",
        "It costs about €{number} a month, which is {number} % more than the {thing} had promised.",
        "What does `{product}: error {number}{number}` mean, and is it related to the {thing}?",
    ),
    "de": (
        "Bitte fassen Sie die {number} wichtigsten Punkte für {name} zusammen.",
        "Warum ist {product} nach der Änderung um {number} % langsamer geworden?",
        "{name} möchte wissen, ob wir {product} künftig durch {product} ersetzen können.",
        "Die Rückmeldung soll höflich klingen und höchstens {number} Wörter umfassen.",
    ),
    "es": (
        "¿Puedes explicarle a {name} cómo configurar {product} en {number} pasos?",
        "Necesitamos una versión más breve, de unas {number} palabras, para el próximo año.",
        "Según {name}, la migración de {product} a {product} tardará {number} días.",
    ),
    "fr": (
        "Rédige une réponse à {name} : le problème avec {product} a été réglé en {number} heures.",
        "Pourquoi {product} affiche-t-il {number} résultats là où {product} en trouvait {number} ?",
        "L’équipe préfère un résumé clair, sans dépasser {number} mots.",
    ),
    "ru": (
        "Объясни, пожалуйста, почему {product} отвечает за {number} секунд.",
        "Подготовь для {name} краткий отчёт из {number} пунктов о переходе на {product}.",
    ),
    "ja": (
        "{product}の設定方法を{number}行で説明してください。",
        "{name}さんへの返信を丁寧な日本語で書き直してください（{number}文字以内）。",
    ),
    "zh": (
        "请用{number}句话向{name}说明如何把数据从{product}迁移到{product}。",
        "为什么{product}的查询时间超过了{number}秒？请给出优化建议。",
    ),
    "hi": (
        "{name} के लिए {product} की रिपोर्ट {number} पंक्तियों में लिखिए।",
        "कृपया बताइए कि {product} में {number} त्रुटियाँ क्यों आ रही हैं।",
    ),
}


class Population:
    """The users, services and sentences of the company whose calls these are."""

    def __init__(self, random: Random) -> None:
        services = {team: _with_others(random, SERVICES[rank % len(SERVICES)], SERVICES) for rank, team in enumerate(TEAMS)}
        teams = random.choices(TEAMS, _zipf(len(TEAMS), 1.0), k=USERS)
        self.users = [User(f"usr_{random.getrandbits(48):012x}", team, services[team]) for team in teams]
        self.user_weights = list(accumulate(_zipf(USERS, 0.8)))
        """Cumulative; users[0] calls most."""
        self.models = {
            service: _with_others(random, MODELS[rank % len(MODELS)], MODELS) for rank, service in enumerate(SERVICES)
        }
        """By service, the most used one first."""
        self.sentences = {
            language: [_sentence(random, language) for _ in range(count)]
            for language, count in SENTENCES_PER_LANGUAGE.items()
        }


@cache
def _population() -> Population:
    return Population(Random(POPULATION_SEED))


def _zipf(count: int, exponent: float) -> list[float]:
    return [rank**-exponent for rank in range(1, count + 1)]


def _with_others(random: Random, first: T, options: Sequence[T]) -> tuple[T, ...]:
    """`first`, and up to three others, of which those that stand early among the options are the likelier."""
    others = random.choices(options, _zipf(len(options), 1.0), k=random.randint(1, 3))
    return tuple(dict.fromkeys((first, *others)))


def _sentence(random: Random, language: str) -> str:
    """A template with every slot filled anew; numbers from 2 to 1000, small ones as often as large ones."""
    pieces = random.choice(TEMPLATES[language]).replace("}", "{").split("{")
    for place in range(1, len(pieces), 2):
        if pieces[place] == "number":
            pieces[place] = str(random.randint(2, 10 ** random.randint(1, 3)))
        else:
            pieces[place] = random.choice(WORDS[pieces[place]])
    return "".join(pieces)


class Generator:
    """Draws events; the same seed, `now` and calls give the same events, byte for byte.

    `now` is aware. `uuid_version` is 7 (RFC 9562, section 5.7: the id holds the event's time) or 4 (random throughout,
    the worst case for an index).

    Raises ValueError for a naive `now` and for any other version.
    """

    def __init__(self, seed: int, *, now: datetime, uuid_version: int = 7) -> None:
        if uuid_version not in (4, 7):
            raise ValueError(f"uuid_version must be 4 or 7, not {uuid_version}.")
        self._random = Random(seed)
        self._now_us = _microseconds(now)
        self._uuid_version = uuid_version
        self._population = _population()

    def usage_events(self, count: int, span: timedelta = SPAN) -> list[dict[str, Any]]:
        """`count` usage events, JSON-ready and in order of time, all less than `span` before `now`."""
        return list(self.iter_usage_events(count, span))

    def iter_usage_events(self, count: int, span: timedelta = SPAN) -> Iterator[dict[str, Any]]:
        """What `usage_events` gives, one at a time: only the times (8 bytes each) are held in memory."""
        for time_us in self._arrivals(count, span // MICROSECOND):
            yield self._usage_event(time_us)

    def events_from_trace(self, path: Path, *, end: datetime) -> Iterator[dict[str, Any]]:
        """The requests of a recorded trace as usage events, one at a time; each has its two token counts in `extra`.

        The file is CSV with the columns TIMESTAMP (UTC; digits past the microsecond are dropped), ContextTokens and
        GeneratedTokens, in order of time: the form of the Azure LLM inference traces. Times are moved together so that
        the last row falls on `end` (aware). What the trace doesn't hold is drawn.

        Raises ValueError, before the first event, if a column is missing or a value can't be read.
        """
        end_us = _microseconds(end)
        last = deque(trace_rows(path), maxlen=1)
        for time_us, context_tokens, generated_tokens in trace_rows(path):
            yield self._traced_event(end_us - last[0][0] + time_us, context_tokens, generated_tokens)

    def message_archives(self, events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """One archive for each of the usage events, stored moments after the call.

        `prompt_full` begins with the event's prompt, if it has one; it and `response_full` have ARCHIVE_CHARS_MIN to
        about ARCHIVE_CHARS_MAX characters.
        """
        archives = []
        for event in events:
            stored_us = _microseconds(datetime.fromisoformat(event["event_time"])) + self._random.randrange(1_500_000)
            archives.append(
                {
                    "event_id": event["event_id"],
                    "user_id": event["user_id"],
                    "service": event["service"],
                    "prompt_full": self._long_text(event.get("prompt")),
                    "response_full": self._long_text(None),
                    "stored_at": _rfc3339(stored_us),
                }
            )
        return archives

    def _arrivals(self, count: int, span_us: int) -> "array[int]":
        """Ascending times in µs since the epoch: exponential gaps, shorter within a burst, scaled to fill the span."""
        random = self._random.random
        gaps = array("d")
        calm_events_mean = BURST_EVENTS_MEAN * (1 - BURST_SHARE) / BURST_SHARE
        burst = False
        left = 0
        for _ in range(count + 1):
            if not left:
                burst = not burst
                left = 1 + int(-math.log(1 - random()) * (BURST_EVENTS_MEAN if burst else calm_events_mean))
            left -= 1
            gaps.append(-math.log(1 - random()) / (BURST_RATE if burst else 1.0))
        # The gap behind the last event is counted too, so that it doesn't always fall on `now` itself.
        ends = accumulate(gaps)
        scale = span_us / (sum(gaps) or 1.0)
        start_us = self._now_us - span_us
        return array("q", (start_us + min(int(end * scale), span_us) for end in islice(ends, count)))

    def _usage_event(self, time_us: int) -> dict[str, Any]:
        random = self._random
        event, model = self._call(time_us)
        if random.random() < ERROR_SHARE:
            failure = self._favour(FAILURES)
            event["total_tokens"] = 0 if random.random() < 0.7 else random.randint(1, 40)
            if random.random() >= LATENCY_MISSING_SHARE:
                event["latency_ms"] = int(random.lognormvariate(5.2, 0.9))
            event["status_code"] = failure.status_code
            event["error_type"] = failure.error_type
        else:
            # Both are log-normal; who asks at length is answered at length, more or less.
            size = random.normalvariate(0, 1)
            context_tokens = min(int(math.exp(6.55 + 1.2 * size)), CONTEXT_TOKENS_MAX)
            generated_tokens = min(int(random.lognormvariate(5.2 + 0.5 * size, 0.85)), GENERATED_TOKENS_MAX)
            self._serve(event, model, context_tokens, generated_tokens)
        self._describe(event)
        return event

    def _traced_event(self, time_us: int, context_tokens: int, generated_tokens: int) -> dict[str, Any]:
        """A trace holds what was served, so none of its calls is made to fail: its tokens would be lost."""
        event, model = self._call(time_us)
        self._serve(event, model, context_tokens, generated_tokens)
        self._describe(event)
        event.setdefault("extra", {}).update(context_tokens=context_tokens, generated_tokens=generated_tokens)
        return event

    def _call(self, time_us: int) -> tuple[dict[str, Any], Model]:
        """The required fields of an event, and the model that is called."""
        population = self._population
        weights = population.user_weights
        user = population.users[bisect(weights, self._random.random() * weights[-1], hi=USERS - 1)]
        service = self._favour(user.services)
        model = self._favour(population.models[service])
        return {
            "event_id": self._event_id(time_us),
            "event_time": _rfc3339(time_us),
            "user_id": user.user_id,
            "team": user.team,
            "service": service,
            "provider": model.provider,
            "model": model.name,
        }, model

    def _serve(self, event: dict[str, Any], model: Model, context_tokens: int, generated_tokens: int) -> None:
        """Fills in what a call that went well has: latency is the wait for the first token, then so much for each."""
        random = self._random
        event["total_tokens"] = context_tokens + generated_tokens
        if random.random() >= LATENCY_MISSING_SHARE:
            first_token_ms = model.first_token_ms * (1 + context_tokens / 20_000)
            generation_ms = generated_tokens / model.tokens_per_second * 1000
            event["latency_ms"] = int((first_token_ms + generation_ms) * random.lognormvariate(0, 0.25))
        if random.random() >= STATUS_MISSING_SHARE:
            event["status_code"] = 200

    def _describe(self, event: dict[str, Any]) -> None:
        random = self._random
        if random.random() < PROMPT_SHARE:
            event["prompt"] = self._prompt()
        if random.random() < EXTRA_SHARE:
            event["extra"] = self._extra()

    def _event_id(self, time_us: int) -> str:
        """The layouts of RFC 9562, sections 5.4 and 5.7; what is neither time, version nor variant is random."""
        if self._uuid_version == 7:
            digits = f"{time_us // 1000:012x}{self._random.getrandbits(80):020x}"
        else:
            digits = f"{self._random.getrandbits(128):032x}"
        variant = "89ab"[int(digits[16], 16) & 3]
        return f"{digits[:8]}-{digits[8:12]}-{self._uuid_version}{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"

    def _prompt(self) -> str:
        random = self._random
        sentences = self._sentences()
        text = " ".join(random.choices(sentences, k=min(1 + int(random.expovariate(0.5)), PROMPT_SENTENCES_MAX)))
        return f"{text} {random.choice(EMOJI)}" if random.random() < 0.15 else text

    def _long_text(self, beginning: str | None) -> str:
        """Paragraphs of sentences in one language."""
        random = self._random
        sentences = self._sentences()
        chars_wanted = min(ARCHIVE_CHARS_MIN + random.lognormvariate(6.6, 0.8), ARCHIVE_CHARS_MAX)
        pieces = [beginning] if beginning else []
        chars = len(beginning or "")
        while chars < chars_wanted:
            pieces.append(" ".join(random.choices(sentences, k=4)))
            chars += len(pieces[-1]) + 2
        return "\n\n".join(pieces)

    def _sentences(self) -> list[str]:
        sentences = self._population.sentences
        if self._random.random() < ENGLISH_SHARE:
            return sentences["en"]
        return sentences[self._random.choice(list(sentences))]

    def _extra(self) -> dict[str, Any]:
        random = self._random
        extra: dict[str, Any] = {
            "region": self._favour(REGIONS),
            "sdk": {"name": self._favour(SDKS), "version": self._favour(SDK_VERSIONS)},
        }
        if random.random() < 0.4:
            extra["trace_id"] = f"{random.getrandbits(128):032x}"
        if random.random() < 0.3:
            extra["request"] = {
                "stream": random.random() < 0.6,
                "temperature": round(random.random(), 2),
                "stop": ["\n\n"] if random.random() < 0.3 else [],
            }
        if random.random() < 0.1:
            extra["retries"] = random.randint(1, 3)
        return extra

    def _favour(self, options: Sequence[T]) -> T:
        """One of the options; the earlier, the likelier."""
        return options[int(len(options) * self._random.random() ** 2)]


def _microseconds(time: datetime) -> int:
    """Since the epoch. Raises ValueError if the time is naive."""
    if time.tzinfo is None:
        raise ValueError(f"{time} has no offset from UTC.")
    return (time - EPOCH) // MICROSECOND


def _rfc3339(time_us: int) -> str:
    seconds, microseconds = divmod(time_us, 1_000_000)
    return f"{_rfc3339_to_the_second(seconds)}.{microseconds:06d}Z"


@lru_cache(maxsize=1024)
def _rfc3339_to_the_second(seconds: int) -> str:
    return (EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


def trace_rows(path: Path) -> Iterator[tuple[int, int, int]]:
    """The rows of a recorded trace: time in µs since the epoch, context tokens, generated tokens.

    Raises ValueError, which says where, if a column is missing or a value can't be read.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for column in ("TIMESTAMP", "ContextTokens", "GeneratedTokens"):
            if column not in (reader.fieldnames or ()):
                raise ValueError(f"{path}: there is no column {column}.")
        for row in reader:
            try:
                time = datetime.fromisoformat(row["TIMESTAMP"])
                tokens = int(row["ContextTokens"]), int(row["GeneratedTokens"])
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}.") from None
            yield _microseconds(time if time.tzinfo else time.replace(tzinfo=UTC)), *tokens


def ndjson(items: Iterable[dict[str, Any]]) -> bytes:
    """A body of type application/x-ndjson: one item a line."""
    return msgspec.json.Encoder().encode_lines(items)


def json_array(items: Sequence[dict[str, Any]]) -> bytes:
    """A body of type application/json."""
    return msgspec.json.encode(items)


def gzip_body(data: bytes, level: int = 6) -> bytes:
    """The body for Content-Encoding: gzip, at `level` 1 to 9. Its header holds no time: same data, same body."""
    return gzip.compress(data, level, mtime=0)


BODIES = {"json": json_array, "ndjson": ndjson}


class Summary(msgspec.Struct, kw_only=True):
    """What was written; `seed` and `now` make it again."""

    seed: int
    now: str
    events: int = 0
    total_tokens: int = 0
    files: int = 0
    first_event_time: str | None = None
    last_event_time: str | None = None


def _write(events: Iterator[dict[str, Any]], folder: Path, *, batch_items: int, form: str, summary: Summary) -> None:
    """Writes the events batch after batch, so that no more than one is in memory."""
    while batch := list(islice(events, batch_items)):
        (folder / f"batch-{summary.files:05d}.{form}.gz").write_bytes(gzip_body(BODIES[form](batch)))
        summary.files += 1
        summary.events += len(batch)
        summary.total_tokens += sum(event["total_tokens"] for event in batch)
        summary.first_event_time = summary.first_event_time or batch[0]["event_time"]
        summary.last_event_time = batch[-1]["event_time"]
        if sys.stderr.isatty():
            print(f"\r{summary.events} events", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generate", description="Writes gzip batches of usage events.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="made if it isn't there; must hold no batch")
    parser.add_argument(
        "--count", type=int, metavar="N", help=f"events (default: {COUNT_DEFAULT}; of a trace, the first N or all)"
    )
    parser.add_argument("--batch", type=int, default=1000, metavar="N", help="events a file (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="default: drawn anew, so that no two runs share an event id")
    parser.add_argument(
        "--now",
        type=datetime.fromisoformat,
        metavar="TIME",
        help="RFC 3339 with offset: the events are before it (default: now)",
    )
    parser.add_argument(
        "--span-seconds",
        type=float,
        default=SPAN.total_seconds(),
        metavar="N",
        help="of the events (default: %(default)g)",
    )
    parser.add_argument(
        "--trace",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="CSV with TIMESTAMP, ContextTokens, GeneratedTokens: takes times and tokens from it; may be given again",
    )
    parser.add_argument("--format", choices=BODIES, default="json", dest="form", help="(default: %(default)s)")
    parser.add_argument("--uuid-version", type=int, choices=(4, 7), default=7, help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print the summary as a line of JSON")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; see --help."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.batch < 1 or (options.count or 0) < 0 or options.span_seconds < 0:
        parser.error("--batch must be at least 1, --count and --span-seconds at least 0")
    seed = int.from_bytes(os.urandom(6)) if options.seed is None else options.seed
    now = options.now or datetime.now(UTC)
    try:
        generator = Generator(seed, now=now, uuid_version=options.uuid_version)
    except ValueError as error:
        parser.error(f"--now: {error}")
    options.out.mkdir(parents=True, exist_ok=True)
    # Files of an earlier, longer run would be sent along with the new ones.
    if any(options.out.glob("batch-*")):
        parser.error(f"--out: {options.out} holds batches already")
    events: Iterator[dict[str, Any]]
    if options.trace:
        traces = [generator.events_from_trace(path, end=now) for path in options.trace]
        events = islice(merge(*traces, key=itemgetter("event_time")), options.count)
    else:
        count = COUNT_DEFAULT if options.count is None else options.count
        events = generator.iter_usage_events(count, timedelta(seconds=options.span_seconds))
    summary = Summary(seed=seed, now=_rfc3339(_microseconds(now)))
    try:
        _write(events, options.out, batch_items=options.batch, form=options.form, summary=summary)
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")
    if options.as_json:
        print(msgspec.json.encode(summary).decode())
    else:
        print(
            f"{summary.events} events, {summary.total_tokens} tokens, {summary.files} files in {options.out}; "
            f"{summary.first_event_time} to {summary.last_event_time}; again with --seed {seed} --now {summary.now}"
        )


if __name__ == "__main__":
    main()
