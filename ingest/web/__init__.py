"""HTTP, and nothing of the database: from a request's bytes to a batch, and from a verdict to an answer."""
