"""File descriptors: each connection takes one, and the usual soft limit of 1024 is soon reached."""

import logging
import resource

from ingest.settings import Settings

OTHERS_MAX = 128
"""What a process has open beside connections of clients and of the database: its log, sockets that listen, epoll, pipes."""
SOFT_LIMIT_MAX = 1_000_000
"""Where the hard limit is none at all."""

logger = logging.getLogger(__name__)


def raise_limit() -> None:
    """Raises this process's soft limit to the hard one, as those do that don't use select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = SOFT_LIMIT_MAX if hard == resource.RLIM_INFINITY else min(hard, SOFT_LIMIT_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def connections_max(chosen: Settings) -> int:
    """How many connections of clients this process may have: MAX_CONNECTIONS, or fewer if it can't open as many."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return chosen.connections_max
    fit = max(soft - OTHERS_MAX - chosen.db_pool_connections, 1)
    if fit < chosen.connections_max:
        logger.warning("At most %d connections instead of MAX_CONNECTIONS: a process may have %d open files.", fit, soft)
    return min(fit, chosen.connections_max)
