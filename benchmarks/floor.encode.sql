-- The events of a JSON array as rows of floor.usage_events, to be had in the form that COPY takes.
--
-- $1 text: the array.
SELECT event_id, event_time, user_id, team, service, provider, model, coalesce(total_tokens, 0), latency_ms, status_code,
       error_type, prompt, extra
FROM jsonb_populate_recordset(NULL::floor.usage_events, $1::jsonb)
