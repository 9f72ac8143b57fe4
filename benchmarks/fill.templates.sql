-- Puts drawn events into the temporary table `templates`, numbered from 0.
--
-- $1 text: a JSON array of usage events.
INSERT INTO templates (
    number, event_id, event_time, user_id, team, service, provider, model, total_tokens, latency_ms, status_code, error_type,
    prompt, extra)
SELECT row_number() OVER () - 1,
       event_id, event_time, user_id, team, service, provider, model, coalesce(total_tokens, 0), latency_ms, status_code,
       error_type, prompt, extra
FROM jsonb_populate_recordset(NULL::analytics.usage_events, $1::jsonb)
