-- Whether there is an API key that may send.
SELECT EXISTS (
    SELECT
    FROM analytics.api_keys
    WHERE scope = 'ingest' AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()))
