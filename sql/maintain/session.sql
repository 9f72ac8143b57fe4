-- Settings of the connection that maintains. A step that waits for a lock gives up after a minute and is tried again the next
-- time; a step that works may take its time. The lock of the one who leads is given back within 25 seconds of the end of its
-- network (tcp_…; ignored on Unix sockets).
SELECT set_config('timezone', 'UTC', false),
       set_config('lock_timeout', '60s', false),
       set_config('statement_timeout', '0', false),
       set_config('idle_in_transaction_session_timeout', '0', false),
       set_config('tcp_keepalives_idle', '10', false),
       set_config('tcp_keepalives_interval', '5', false),
       set_config('tcp_keepalives_count', '3', false),
       set_config('tcp_user_timeout', '25s', false)
