"""Programs that measure the service, and what they measure it with."""
