-- Settings of a writer's connection, made once when it is opened. They are set here and not as start-up parameters, because
-- a pooler such as PgBouncer refuses parameters that it doesn't know.
--
-- $1 text: statement_timeout in milliseconds. The driver gives up at the same time, but only the server frees the locks.
-- $2 text: lock_timeout in milliseconds. A group that has to wait longer for another transaction, one that hangs with an id
--          that it claimed, is rolled back, and each of its batches is stored apart: only those that need the lock fail.
--
-- Returns what tells this session from any other of the server, now and later: its process and when that began.
--
-- tcp_…:              a client whose machine or network is gone says no goodbye, and a COPY whose data does not come is
--                     interrupted neither by statement_timeout nor by a request to cancel it: it would hold the ids that it
--                     claimed for two hours, the usual default of the system. So it is 25 seconds. (Ignored on Unix sockets.)
-- synchronous_commit: what an answer calls accepted is on disk, whatever the server's default is.
-- timezone:           bounds and times are written in UTC.
SELECT set_config('synchronous_commit', 'on', false),
       set_config('timezone', 'UTC', false),
       set_config('statement_timeout', $1, false),
       set_config('lock_timeout', $2, false),
       set_config('idle_in_transaction_session_timeout', $1, false),
       set_config('tcp_keepalives_idle', '10', false),
       set_config('tcp_keepalives_interval', '5', false),
       set_config('tcp_keepalives_count', '3', false),
       set_config('tcp_user_timeout', '25s', false),
       activity.pid,
       activity.backend_start
FROM pg_stat_activity activity
WHERE activity.pid = pg_backend_pid()
