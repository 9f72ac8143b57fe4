"""`ingest policies plan | apply | status` and `ingest maintain`, on every edition."""

import asyncio
import json
import re
import shutil
import subprocess
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ingest import errors
from ingest.events import USAGE_EVENTS
from ingest.settings import DatabaseUrl
from ingest.store import files, migrate, policies, status
from ingest.store.editions import Edition
from ingest.store.maintenance import Maintenance
from ingest.store.writer import BatchWriter
from tests import rollups, samples, servers
from tests.service import command, environment, started
from tests.storing import store

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "chunk_time_interval_hours": 24,
    "compression_after_days": 7,
    "retention_days": 180,
    "dedupe_window_days": 180,
}
HISTORY = "SELECT policy, file, checksum IS NULL FROM analytics.policy_history ORDER BY id"
STARTERS = 4
NOTHING_TO_DO = "Nothing to do: the database has what the settings and the files say."


def run(url: DatabaseUrl, *arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command line on this database."""
    return subprocess.run(
        command(*arguments),
        env=environment({"DB_URL": url.reveal(), **variables}),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def jobs(url: DatabaseUrl) -> list[tuple[Any, ...]]:
    """What identifies each job, and its config."""
    if rollups.edition(url) == "timescaledb":
        return servers.query(
            url, "SELECT job_id, proc_name, config::text FROM timescaledb_information.jobs WHERE job_id >= 1000 ORDER BY 1"
        )
    return servers.query(url, "SELECT policy, command, config::text FROM analytics.maintenance_jobs ORDER BY 1")


def test_plan_shows_everything_and_touches_nothing(owner_url: DatabaseUrl, database_url: DatabaseUrl) -> None:
    planned = policies.plan(owner_url, SETTINGS)

    assert [policy.action for policy in planned.policies] == ["create"] * len(policies.newest_files(planned.edition))
    assert servers.query(database_url, HISTORY) == []
    assert jobs(database_url) == []


def test_plan_after_apply_is_empty(owner_url: DatabaseUrl, database_url: DatabaseUrl) -> None:
    applied = policies.apply(owner_url, SETTINGS)
    history, made = servers.query(database_url, HISTORY), jobs(database_url)

    assert policies.plan(owner_url, SETTINGS).pending == []
    assert policies.apply(owner_url, SETTINGS).pending == []

    assert servers.query(database_url, HISTORY) == history
    assert history == [(file.policy, file.name, False) for file in policies.newest_files(applied.edition)]
    assert jobs(database_url) == made


def test_several_at_once_do_the_work_once(owner_url: DatabaseUrl, database_url: DatabaseUrl, tmp_path: Path) -> None:
    settings = environment({"DB_URL": owner_url.reveal()})
    running = [
        subprocess.Popen(
            command("policies", "apply"),
            env=settings,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(STARTERS)
    ]
    outputs = [process.communicate(timeout=120) for process in running]

    assert [process.returncode for process in running] == [0] * STARTERS, outputs
    said = sorted(output.strip().splitlines()[-1] for output, _ in outputs)
    wanted = policies.newest_files(Edition(rollups.edition(database_url)))
    assert said == [
        f"{len(wanted)} policies applied.",
        *["Nothing to do: the database has what the settings and the files say."] * 3,
    ]
    assert len(servers.query(database_url, HISTORY)) == len(wanted)


def test_a_changed_setting_changes_the_job_there_is(owner_url: DatabaseUrl, database_url: DatabaseUrl) -> None:
    policies.apply(owner_url, SETTINGS)
    before = jobs(database_url)
    changed = {
        "chunk_time_interval_hours": 12,
        "compression_after_days": 14,
        "retention_days": 365,
        "dedupe_window_days": 200,
    }

    planned = policies.apply(owner_url, changed)

    after = jobs(database_url)
    assert [job[:2] for job in after] == [job[:2] for job in before]
    assert {(change.what, change.actual, change.desired) for policy in planned.pending for change in policy.changes} <= {
        ("CHUNK_TIME_INTERVAL_HOURS", 24, 12),
        ("COMPRESSION_AFTER_DAYS", 7, 14),
        ("RETENTION_DAYS", 180, 365),
        ("DEDUPE_WINDOW_DAYS", 180, 200),
    }
    configs = " ".join(job[2] for job in after)
    kept = "368 days" if planned.edition is Edition.TIMESCALEDB else '"retention_days": 365'
    assert configs.count(kept) == 2
    assert "180" not in configs
    assert policies.plan(owner_url, changed).pending == []


def test_a_shorter_retention_needs_a_word_more(owner_url: DatabaseUrl, database_url: DatabaseUrl, tmp_path: Path) -> None:
    policies.apply(owner_url, SETTINGS)
    before = jobs(database_url)

    refused = run(owner_url, "policies", "apply", folder=tmp_path, RETENTION_DAYS="90")
    assert refused.returncode == 1
    assert refused.stderr.startswith(
        "ingest: A retention that is shorter, or is back, deletes rows that are kept now"
        " (message_archives.retention, usage_events.retention)."
    )
    assert jobs(database_url) == before
    shown = run(owner_url, "policies", "plan", folder=tmp_path, RETENTION_DAYS="90")
    assert "RETENTION_DAYS: 180 -> 90" in shown.stdout
    assert "needs --allow-data-loss" in shown.stdout
    assert "`ingest policies apply --allow-data-loss`." in shown.stdout

    allowed = run(owner_url, "policies", "apply", "--allow-data-loss", folder=tmp_path, RETENTION_DAYS="90")
    assert allowed.returncode == 0, allowed.stderr
    assert jobs(database_url) != before
    assert policies.plan(owner_url, {**SETTINGS, "retention_days": 90, "dedupe_window_days": 90}).pending == []


def test_a_shorter_retention_is_refused_by_hand_too(owner_url: DatabaseUrl, database_url: DatabaseUrl) -> None:
    policies.apply(owner_url, SETTINGS)
    before = jobs(database_url)
    [file] = [
        file
        for file in policies.newest_files(Edition(rollups.edition(database_url)))
        if file.policy == "usage_events.retention"
    ]

    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="would delete some of them"):
        servers.execute(owner_url, f"SET analytics.retention_days = 30; {file.text}")
    assert jobs(database_url) == before

    servers.execute(owner_url, f"SET analytics.retention_days = 30; SET analytics.allow_data_loss = on; {file.text}")
    assert jobs(database_url) != before


def test_every_file_runs_by_hand_twice_and_keeps_what_was_chosen(
    owner_url: DatabaseUrl, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    """With psql, as a DBA would; without any setting the second time, which must not bring the defaults back."""
    if (psql := shutil.which("psql")) is None:
        pytest.skip("no psql on this machine")
    rollups.stop_scheduler(database_url)
    chosen = "-c analytics.retention_days=200 -c analytics.compression_after_days=9 -c analytics.dedupe_window_days=210"
    for options in (chosen, ""):
        for file in policies.newest_files(Edition(rollups.edition(database_url))):
            done = subprocess.run(
                [psql, "-v", "ON_ERROR_STOP=1", "-qXf", str(ROOT / "sql/policies" / file.name), owner_url.reveal()],
                env={**environment({}), "PGOPTIONS": f"{options} -c client_min_messages=warning"},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, f"{file.name}: {done.stderr}"
            assert done.stderr == ""

    wanted = {**SETTINGS, "retention_days": 200, "compression_after_days": 9, "dedupe_window_days": 210}
    assert policies.plan(owner_url, wanted).pending == []
    history = servers.query(database_url, HISTORY)
    assert {by_hand for _, _, by_hand in history} == {True}
    assert len({job[:2] for job in jobs(database_url)}) == len(history) / 2


def test_an_installation_with_the_first_versions_goes_on_with_the_newest(
    owner_url: DatabaseUrl, database_url: DatabaseUrl
) -> None:
    """As it was before the migrations that the second versions of policy files need, with the first versions applied."""
    rollups.stop_scheduler(database_url)
    edition = rollups.edition(database_url)
    migrations = {int(name[:4]): (files.migrations() / f"{name}.sql").read_text() for name in files.migration_names()}
    for number in range(7, 11):
        servers.execute(owner_url, migrations[number])
    first = [path for path in files.policy_paths(edition) if path.name.endswith(".v1.sql")]
    for kind in policies.KINDS:
        for path in first:
            if f".{kind}.v1." in path.name:
                servers.execute(owner_url, f"SET analytics.retention_days = 200; {path.read_text()}")
    for number in range(11, max(migrations) + 1):
        servers.execute(owner_url, migrations[number])
    wanted = {**SETTINGS, "retention_days": 200}
    before = jobs(database_url)

    pending = policies.plan(owner_url, wanted).pending
    assert {policy.policy for policy in pending} >= {"usage_events.retention", "usage_event_ids.pruning"}
    assert [policy for policy in pending if policy.deletes_rows] == []
    policies.apply(owner_url, wanted)

    assert policies.plan(owner_url, wanted).pending == []
    assert [job[:2] for job in jobs(database_url)] == [job[:2] for job in before], "changed, and none added"
    rollups.run_jobs(owner_url)


def test_what_was_changed_by_hand_is_shown_and_set_right(owner_url: DatabaseUrl, database_url: DatabaseUrl) -> None:
    policies.apply(owner_url, SETTINGS)
    before = jobs(database_url)
    if rollups.edition(database_url) == "timescaledb":
        servers.execute(
            owner_url,
            'SELECT alter_job(job_id, config => config || \'{"drop_after": "33 days"}\') FROM timescaledb_information.jobs'
            " WHERE proc_name = 'policy_retention' AND hypertable_name = 'usage_events'",
        )
    else:
        servers.execute(
            owner_url,
            "UPDATE analytics.maintenance_jobs SET config = '{\"retention_days\": 30}'"
            " WHERE policy = 'usage_events.retention'",
        )

    [changed] = policies.plan(owner_url, SETTINGS).pending
    assert changed.policy == "usage_events.retention"
    assert [change.why for change in changed.changes] == ["changed by hand since it was applied"]
    policies.apply(owner_url, SETTINGS)

    assert jobs(database_url) == before
    assert policies.plan(owner_url, SETTINGS).pending == []


def test_a_retention_that_was_removed_comes_back_only_if_that_is_said(
    owner_url: DatabaseUrl, database_url: DatabaseUrl
) -> None:
    policies.apply(owner_url, SETTINGS)
    if rollups.edition(database_url) == "timescaledb":
        servers.execute(owner_url, "SELECT remove_retention_policy('analytics.usage_events')")
    else:
        servers.execute(owner_url, "DELETE FROM analytics.maintenance_jobs WHERE policy = 'usage_events.retention'")

    with pytest.raises(errors.PolicyRefused, match="--allow-data-loss"):
        policies.apply(owner_url, SETTINGS)
    applied = policies.apply(owner_url, SETTINGS, allow_data_loss=True)

    assert [(policy.policy, policy.deletes_rows) for policy in applied.pending] == [("usage_events.retention", True)]
    assert policies.plan(owner_url, SETTINGS).pending == []


def test_another_job_that_was_removed_is_made_again(owner_url: DatabaseUrl, database_url: DatabaseUrl) -> None:
    policies.apply(owner_url, SETTINGS)
    if rollups.edition(database_url) == "timescaledb":
        servers.execute(
            owner_url, "SELECT delete_job(job_id) FROM timescaledb_information.jobs WHERE proc_name = 'prune_ledger'"
        )
    else:
        servers.execute(owner_url, "DELETE FROM analytics.maintenance_jobs WHERE policy = 'usage_event_ids.pruning'")

    assert [policy.policy for policy in policies.apply(owner_url, SETTINGS).pending] == ["usage_event_ids.pruning"]
    assert policies.plan(owner_url, SETTINGS).pending == []


def test_what_a_dba_pauses_stays_paused(owner_url: DatabaseUrl, database_url: DatabaseUrl) -> None:
    policies.apply(owner_url, SETTINGS)
    if rollups.edition(database_url) == "timescaledb":
        pause = "SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs WHERE job_id >= 1000"
    else:
        pause = "UPDATE analytics.maintenance_jobs SET scheduled = false"
    servers.execute(owner_url, pause)

    assert policies.plan(owner_url, SETTINGS).pending == []
    policies.apply(owner_url, {**SETTINGS, "retention_days": 365, "dedupe_window_days": 365})

    assert {job.scheduled for job in status.status(owner_url).jobs} == {False}
    if rollups.edition(database_url) != "timescaledb":
        assert asyncio.run(Maintenance(owner_url).run_all()) == []


def test_a_view_and_a_layout_that_were_changed_by_hand_are_set_right(
    owner_url: DatabaseUrl, database_url: DatabaseUrl
) -> None:
    if rollups.edition(database_url) != "timescaledb":
        pytest.skip("only TimescaleDB Community has them")
    policies.apply(owner_url, SETTINGS)
    applied = servers.query(database_url, "SELECT policy, state::text FROM analytics.policy_history ORDER BY 1")
    servers.execute(
        owner_url,
        "ALTER MATERIALIZED VIEW analytics.usage_hourly SET (timescaledb.materialized_only = true)",
        "ALTER TABLE analytics.message_archives"
        " SET (timescaledb.orderby = 'stored_at ASC', timescaledb.segmentby = 'service')",
    )

    pending = policies.apply(owner_url, SETTINGS).pending

    assert [policy.policy for policy in pending] == ["message_archives.compression", "usage_events.rollups"]
    states = servers.query(
        database_url,
        "SELECT DISTINCT ON (policy) policy, state::text FROM analytics.policy_history ORDER BY policy, id DESC",
    )
    assert states == applied


def test_retention_by_hand_needs_the_rollups(owner_url: DatabaseUrl, database_url: DatabaseUrl) -> None:
    wanted = policies.newest_files(Edition(rollups.edition(database_url)))
    if wanted[0].name.partition("/")[0] != "timescaledb":
        pytest.skip("elsewhere the job waits for them")
    [file] = [file for file in wanted if file.policy == "usage_events.retention"]

    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="without rollups"):
        servers.execute(owner_url, file.text)


def test_jobs_that_a_dba_made_are_shown_and_left_alone(
    owner_url: DatabaseUrl, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    if rollups.edition(database_url) != "timescaledb":
        pytest.skip("elsewhere jobs are rows: see the next test")
    servers.execute(
        owner_url,
        "CREATE PROCEDURE analytics.of_the_dba(job_id integer, config jsonb) LANGUAGE sql AS 'SELECT 1'",
        "SELECT add_job('analytics.of_the_dba', '1 day', config => '{\"mine\": true}')",
    )
    policies.apply(owner_url, SETTINGS)
    servers.execute(owner_url, "SELECT add_retention_policy('analytics.usage_daily', INTERVAL '3 years')")
    made = [job for job in jobs(database_url) if "mine" in job[2] or "3 years" in job[2]]
    assert len(made) == 2

    assert policies.plan(owner_url, SETTINGS).pending == []
    policies.apply(owner_url, {**SETTINGS, "retention_days": 365})

    assert set(made) <= set(jobs(database_url))
    assert len(policies.plan(owner_url, SETTINGS).others) == 2
    assert "analytics.of_the_dba  made by hand, left alone" in run(owner_url, "policies", "plan", folder=tmp_path).stdout
    assert "by hand:" in run(owner_url, "policies", "status", folder=tmp_path).stdout


def test_rows_that_a_dba_made_are_shown_and_run_and_left_alone(
    owner_url: DatabaseUrl, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    maintained(database_url)
    policies.apply(owner_url, SETTINGS)
    made = "FROM analytics.maintenance_jobs WHERE policy LIKE 'dba.%'"
    servers.execute(
        owner_url,
        "INSERT INTO analytics.maintenance_jobs (policy, run_order, command, config, schedule_interval) VALUES"
        " ('dba.analyze', 15, 'ANALYZE', '{}', '1 day')",
    )
    before = servers.query(database_url, f"SELECT command, config::text, schedule_interval {made}")

    assert policies.plan(owner_url, SETTINGS).others == ["dba.analyze: ANALYZE"]
    policies.apply(owner_url, {**SETTINGS, "retention_days": 365})
    rollups.run_jobs(owner_url)

    assert servers.query(database_url, f"SELECT command, config::text, schedule_interval {made}") == before
    assert "by hand: dba.analyze: ANALYZE" in run(owner_url, "policies", "status", folder=tmp_path).stdout


@pytest.mark.parametrize(("command_of_job", "said"), [("SELECT 1", "is 1"), ("SELECT $1::jsonb, $2::text", "2 arguments")])
def test_a_job_that_is_no_job_stops_no_other(
    owner_url: DatabaseUrl, database_url: DatabaseUrl, command_of_job: str, said: str
) -> None:
    maintained(database_url)
    policies.apply(owner_url, SETTINGS)
    servers.execute(
        owner_url,
        "INSERT INTO analytics.maintenance_jobs (policy, run_order, command, config, schedule_interval)"
        f" VALUES ('dba.nonsense', -1, '{command_of_job}', '{{}}', '1 day')",
    )

    runs = asyncio.run(Maintenance(owner_url).run_all())

    assert [run.policy for run in runs if run.error is not None] == ["dba.nonsense"]
    assert said in (runs[0].error or "")
    assert len(runs) == len(policies.newest_files(Edition(rollups.edition(database_url)))) + 1
    [job] = [job for job in status.status(owner_url).jobs if job.policy is None]
    assert (job.runs, job.failures, job.last_result) == (1, 1, "failed")


def test_of_two_jobs_with_one_procedure_the_first_is_ours(owner_url: DatabaseUrl, database_url: DatabaseUrl) -> None:
    if rollups.edition(database_url) != "timescaledb":
        pytest.skip("elsewhere a policy is the key of its job")
    rollups.stop_scheduler(database_url)
    policies.apply(owner_url, SETTINGS)
    add = "SELECT add_job('analytics.refresh_rollups', '1 day', config => '{\"everything\": true}')"
    servers.execute(owner_url, add)
    servers.execute(database_url, add)
    before = jobs(database_url)

    assert len(policies.plan(owner_url, SETTINGS).others) == 2
    assert policies.apply(owner_url, SETTINGS).pending == []
    policies.apply(database_url, {**SETTINGS, "retention_days": 365, "dedupe_window_days": 365})

    assert [job for job in jobs(database_url) if job[1] == "refresh_rollups"] == [
        job for job in before if job[1] == "refresh_rollups"
    ]
    found = [job for job in status.status(owner_url).jobs if job.policy == "usage_events.rollups"]
    assert [job.config for job in found] == [{}]


def test_settings_out_of_range_are_refused_by_hand_too(owner_url: DatabaseUrl, database_url: DatabaseUrl) -> None:
    refused = 0
    for file in policies.newest_files(Edition(rollups.edition(database_url))):
        for name in file.settings:
            for value in (-5, 0, 36501, 2147483647):
                with pytest.raises(psycopg.errors.InvalidParameterValue, match=f"analytics.{name} is {value}, and must be"):
                    servers.execute(owner_url, f"SET analytics.{name} = {value}; {file.text}")
                refused += 1

    assert refused >= 12
    assert jobs(database_url) == []


def test_a_bound_never_lies_in_the_future(owner_url: DatabaseUrl, database_url: DatabaseUrl) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="in the future"):
        servers.execute(owner_url, "SELECT analytics.note_bound('ids_from', now() + interval '1 minute')")
    # A job whose config somebody made nonsense of: what is left of it must not close the service for years.
    servers.execute(owner_url, "INSERT INTO analytics.usage_event_ids VALUES (gen_random_uuid(), now(), 1)")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="in the future"):
        servers.execute(owner_url, "CALL analytics.prune_ledger(0, '{\"dedupe_window_days\": -1000}')")

    assert servers.query(database_url, "SELECT count(*) FROM analytics.usage_event_ids") == [(1,)]
    assert servers.query(database_url, "SELECT count(*) FROM analytics.time_bounds") == [(0,)]


def test_a_statement_timeout_of_the_role_does_not_count(
    owner_url: DatabaseUrl, database_url: DatabaseUrl, empty_database: DatabaseUrl
) -> None:
    timeout = "SET statement_timeout = '1ms'"
    [(database,)] = servers.query(database_url, "SELECT quote_ident(current_database())")
    servers.execute(database_url, f"ALTER DATABASE {database} {timeout}")

    policies.apply(owner_url, SETTINGS)
    assert policies.plan(owner_url, SETTINGS).pending == []
    assert status.status(owner_url).not_applied == []

    [(database,)] = servers.query(empty_database, "SELECT quote_ident(current_database())")
    servers.execute(empty_database, f"ALTER DATABASE {database} {timeout}")
    migrate.migrate(empty_database, chunk_interval_hours=24)


def test_status_of_a_job_that_never_comes(owner_url: DatabaseUrl, database_url: DatabaseUrl) -> None:
    maintained(database_url)
    policies.apply(owner_url, SETTINGS)
    servers.execute(owner_url, "UPDATE analytics.maintenance_jobs SET next_start = 'infinity'")

    assert {job.next_start for job in status.status(owner_url).jobs} == {None}


def test_a_policy_that_fails_is_in_the_status_and_ingest_goes_on(
    owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    servers.execute(
        owner_url,
        "CREATE OR REPLACE PROCEDURE analytics.prune_ledger(job_id integer, config jsonb) LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'broken on purpose'; END $$",
    )
    policies.apply(owner_url, SETTINGS)
    with started({"DB_URL": writer_url.reveal()}) as service:
        if rollups.edition(database_url) != "timescaledb":
            assert run(owner_url, "maintain", "--once", folder=tmp_path).returncode == 3
        rollups.start_scheduler(database_url)
        failed = await_failure(owner_url, "usage_event_ids.pruning")

        assert failed.last_error is not None
        assert "broken on purpose" in failed.last_error
        assert failed.failures >= 1
        assert failed.next_start is not None
        assert "usage_event_ids.pruning failed:" in run(owner_url, "policies", "status", folder=tmp_path).stdout
        assert service.client.get("/readyz").status_code == 200
        assert service.verdict([samples.wire_event()])["accepted"] == 1


def await_failure(url: DatabaseUrl, policy: str) -> status.JobStatus:
    """The status of a job once it failed with our error; TimescaleDB's scheduler takes a moment."""
    deadline = time.monotonic() + 60
    while True:
        [job] = [job for job in status.status(url).jobs if job.policy == policy]
        if job.last_result == "failed" and "broken" in (job.last_error or ""):
            return job
        assert time.monotonic() < deadline, job
        time.sleep(0.2)


def test_status_tells_it_all(owner_url: DatabaseUrl, writer: BatchWriter, database_url: DatabaseUrl, tmp_path: Path) -> None:
    rollups.stop_scheduler(database_url)
    assert len(status.status(owner_url).not_applied) == len(policies.newest_files(Edition(rollups.edition(database_url))))
    policies.apply(owner_url, SETTINGS)
    rollups.run_jobs(owner_url)
    servers.execute(database_url, "ANALYZE")

    found = status.status(owner_url)

    assert found.not_applied == []
    assert {job.policy for job in found.jobs} == {file.policy for file in policies.newest_files(found.edition)}
    assert [table.table_name for table in found.tables] == ["message_archives", "usage_events"]
    assert found.ledger.rows == 0
    assert found.ledger.oldest is None
    assert ("compression" in found.cannot) == (found.edition is not Edition.TIMESCALEDB)
    as_json = json.loads(run(owner_url, "policies", "status", "--json", folder=tmp_path).stdout)
    assert as_json["edition"] == found.edition
    assert as_json["tables"][1]["ratio"] is None
    as_text = run(owner_url, "policies", "status", folder=tmp_path).stdout
    for word in ("usage_events.retention", "Ledger: about 0 ids", f"Edition: {found.edition}"):
        assert word in as_text


async def test_status_knows_the_ledger(owner_url: DatabaseUrl, writer: BatchWriter, now: datetime) -> None:
    oldest = now - timedelta(days=55, hours=3)
    times = [now, now - timedelta(days=7), oldest, now - timedelta(days=54)]
    await store(writer, USAGE_EVENTS, [samples.event(event_time=time) for time in times])

    found = await asyncio.to_thread(status.status, owner_url)

    assert found.ledger.oldest == oldest
    assert found.ledger.rows == 4
    assert found.ledger.bytes > 0
    assert found.tables[1].rows > 0, "though nobody has analyzed it"


async def test_the_ledger_forgets_and_the_service_knows_it(
    owner_url: DatabaseUrl, writer: BatchWriter, database_url: DatabaseUrl, now: datetime
) -> None:
    """A forgotten id must not come back to life when the window grows again."""
    old, young = samples.event(event_time=now - timedelta(days=33)), samples.event(event_time=now - timedelta(days=20))
    await store(writer, USAGE_EVENTS, [old, young])

    with servers.connected(owner_url) as connection:
        connection.autocommit = True
        prune = b"CALL analytics.prune_ledger(0, '{\"dedupe_window_days\": 30}')"
        connection.execute(prune)
        # Said, and not done before every service knows it.
        assert servers.query(database_url, "SELECT count(*) FROM analytics.usage_event_ids") == [(2,)]
        servers.execute(database_url, "UPDATE analytics.time_bounds SET noted_at = now() - interval '3 minutes'")
        connection.execute(prune)

    assert servers.query(database_url, "SELECT event_id FROM analytics.usage_event_ids") == [(young.event_id,)]
    with started({"DB_URL": owner_url.reveal(), "MAINTENANCE": "off"}) as service:
        refused = service.post([samples.wire_event(event_time=(now - timedelta(days=32)).isoformat())])
        assert refused.json()["errors"][0]["code"] == "too_old"
        assert service.verdict([samples.wire_event(event_time=(now - timedelta(days=30)).isoformat())])["accepted"] == 1


def test_the_schema_must_be_there(empty_database: DatabaseUrl, tmp_path: Path) -> None:
    for action in ("plan", "apply", "status"):
        done = run(empty_database, "policies", action, folder=tmp_path)
        assert done.returncode == 1
        assert re.match(r"ingest: The database's schema is behind: .* Run `ingest migrate`\.", done.stderr)


# --- maintain ---------------------------------------------------------------------------------------------------------


def maintained(url: DatabaseUrl) -> None:
    if rollups.edition(url) == "timescaledb":
        pytest.skip("TimescaleDB Community schedules its jobs itself")


def test_maintain_has_nothing_to_do_on_community(owner_url: DatabaseUrl, database_url: DatabaseUrl, tmp_path: Path) -> None:
    done = run(owner_url, "maintain", "--once", folder=tmp_path)

    assert done.returncode == 0
    if rollups.edition(database_url) == "timescaledb":
        assert done.stdout == "Nothing to do: TimescaleDB Community runs the policies itself.\n"
    else:
        assert done.stdout == "There are no jobs. Run `ingest policies apply`.\n"


def test_many_maintainers_work_one_at_a_time(owner_url: DatabaseUrl, database_url: DatabaseUrl, tmp_path: Path) -> None:
    """Each counts in a table, slowly and in two steps; were two at it at once, a count would be lost."""
    maintained(database_url)
    servers.execute(
        owner_url,
        "CREATE TABLE analytics.counted (n integer)",
        "INSERT INTO analytics.counted VALUES (0)",
        "CREATE PROCEDURE analytics.count_slowly() LANGUAGE plpgsql AS"
        " $$ DECLARE seen integer := (SELECT n FROM analytics.counted);"
        " BEGIN COMMIT; PERFORM pg_sleep(0.2); UPDATE analytics.counted SET n = seen + 1; END $$",
        "SELECT analytics.ensure_job('usage_events.counting', 'CALL analytics.count_slowly()', '{}', '1 hour')",
    )
    settings = environment({"DB_URL": owner_url.reveal()})
    running = [subprocess.Popen(command("maintain", "--once"), env=settings, cwd=tmp_path) for _ in range(STARTERS)]

    assert [process.wait(60) for process in running] == [0] * STARTERS
    assert servers.query(database_url, "SELECT n FROM analytics.counted") == [(STARTERS,)]
    assert servers.query(database_url, "SELECT runs, failures FROM analytics.maintenance_jobs") == [(STARTERS, 0)]


def test_a_job_runs_when_it_is_due(owner_url: DatabaseUrl, database_url: DatabaseUrl) -> None:
    maintained(database_url)
    servers.execute(owner_url, "SELECT analytics.ensure_job('usage_events.counting', 'SELECT 1 WHERE false', '{}', '1 hour')")
    due = "SELECT runs, next_start > now() + interval '59 minutes' FROM analytics.maintenance_jobs"
    maintenance = Maintenance(owner_url)

    asyncio.run(maintenance.run_due())
    assert servers.query(database_url, due) == [(1, True)]
    asyncio.run(maintenance.run_due())
    assert servers.query(database_url, due) == [(1, True)]
    servers.execute(owner_url, "UPDATE analytics.maintenance_jobs SET next_start = now(), scheduled = false")
    asyncio.run(maintenance.run_due())
    assert servers.query(database_url, "SELECT runs FROM analytics.maintenance_jobs") == [(1,)]


def test_serve_maintains_too(owner_url: DatabaseUrl, database_url: DatabaseUrl) -> None:
    maintained(database_url)
    policies.apply(owner_url, SETTINGS)
    with started({"DB_URL": owner_url.reveal(), "MAINTENANCE": "off"}):
        time.sleep(1)
        assert servers.query(database_url, "SELECT max(runs) FROM analytics.maintenance_jobs") == [(0,)]

    with started({"DB_URL": owner_url.reveal()}):
        deadline = time.monotonic() + 30
        while servers.query(database_url, "SELECT min(runs) FROM analytics.maintenance_jobs") == [(0,)]:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_serve_as_the_writer_leaves_maintenance_to_the_owner(
    owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl
) -> None:
    maintained(database_url)
    policies.apply(owner_url, SETTINGS)
    with started({"DB_URL": writer_url.reveal()}) as service:
        deadline = time.monotonic() + 30
        while "This user does not own the tables" not in service.log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert service.verdict([samples.wire_event()])["accepted"] == 1


async def test_batches_go_on_while_a_reader_keeps_retention_waiting(
    owner_url: DatabaseUrl, writer: BatchWriter, database_url: DatabaseUrl, now: datetime
) -> None:
    """A DROP or a plain DETACH would queue for an exclusive lock behind the reader, and every batch behind that."""
    maintained(database_url)
    await store(writer, USAGE_EVENTS, [samples.event(event_time=now - timedelta(days=190))])
    await asyncio.to_thread(policies.apply, owner_url, SETTINGS)
    with servers.connected(database_url) as reader:
        reader.execute("SELECT count(*) FROM analytics.usage_events")
        maintaining = asyncio.create_task(Maintenance(owner_url).run_all())
        for _ in range(20):
            async with asyncio.timeout(5):
                await store(writer, USAGE_EVENTS, [samples.event()])
            await asyncio.sleep(0.1)
        assert not maintaining.done()
        reader.rollback()
    runs = await maintaining

    assert [run for run in runs if run.error] == []
    [(oldest,)] = servers.query(database_url, "SELECT min(event_time) FROM analytics.usage_events")
    assert oldest > now - timedelta(days=1)  # type: ignore[operator]


def test_a_retention_that_was_killed_goes_on(
    owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl
) -> None:
    """Killed between its steps, it leaves a partition half detached, or detached and not dropped."""
    if rollups.edition(database_url) != "postgresql":
        pytest.skip("only PostgreSQL needs several steps")
    for days in (200, 195, 190, 10):
        servers.execute(
            owner_url, f"SELECT analytics.ensure_partition('usage_events', now() - interval '{days} days', '1 day')"
        )
    old = [
        str(name)
        for (name,) in servers.query(
            database_url,
            "SELECT partition_name FROM analytics.partitions WHERE upper_bound < now() - interval '30 days' ORDER BY 1",
        )
    ]
    policies.apply(owner_url, SETTINGS)
    mark = "past the retention, to be dropped"
    servers.execute(
        owner_url,
        f"COMMENT ON TABLE analytics.{old[0]} IS '{mark}'",
        f"ALTER TABLE analytics.usage_events DETACH PARTITION analytics.{old[0]} CONCURRENTLY",
        f"COMMENT ON TABLE analytics.{old[1]} IS '{mark}'",
    )
    with servers.connected(database_url) as reader, servers.connected(owner_url) as killed:
        reader.execute("SELECT count(*) FROM analytics.usage_events")
        killed.autocommit = True
        killed.execute("SET statement_timeout = '500ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            killed.execute(f"ALTER TABLE analytics.usage_events DETACH PARTITION analytics.{old[1]} CONCURRENTLY".encode())

    rollups.run_jobs(owner_url)

    assert servers.query(database_url, "SELECT relname FROM pg_class WHERE relname = ANY (%s)", old) == []
    assert servers.query(
        database_url,
        "SELECT count(*) FROM analytics.partitions"
        " WHERE table_name = 'usage_events' AND lower_bound < now() - interval '11 days'",
    ) == [(0,)]
