"""Files to the service: taken apart into items, sent in batches by `ingest.client`, and gone on with after a crash."""
