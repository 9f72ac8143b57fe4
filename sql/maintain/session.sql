-- Settings of the connection that maintains. A step that waits for a lock gives up after a minute and is tried again the next
-- time; a step that works may take its time.
SELECT set_config('timezone', 'UTC', false),
       set_config('lock_timeout', '60s', false),
       set_config('statement_timeout', '0', false),
       set_config('idle_in_transaction_session_timeout', '0', false)
