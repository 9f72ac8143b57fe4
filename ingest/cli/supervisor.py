"""Several workers behind one address: starts them, hands connections to them, starts those again that die, stops them.

The supervisor accepts every connection and hands it to the worker that has the fewest. Few connections, four say, that are
kept alive are a usual load here, and they don't spread by themselves. Of 100 rounds of connections made one by one, to 2
workers on 2 cores (uvloop 0.23, Linux 6.18):

                              4 connections                         8                         32
                              all on one   halves   busiest's       all on one   busiest's    all on one   busiest's
    one listening socket      94           1        98 %            52           86 %         1            66 %
    SO_REUSEPORT              13           25       72 %            0            64 %         0            57 %
    handed over               0            100      50 %            0            50 %         0            50 %

("busiest's": the share of the worker that has the most, on average.) On one listening socket whoever is awake takes what
there is, in a loop; SO_REUSEPORT asks a hash. The price is one hop when a connection is made: with its first answer it takes
0.55 to 0.65 ms instead of 0.33. Its bytes never come by here. And while no worker is there, connections wait, and find no
closed door.

uvicorn.supervisors.Multiprocess is not used: it builds the server itself, and ours opens the service around it; its workers
share one listening socket; one that dies is started again at once, for ever; a stop waits without end; and workers outlive
a supervisor that was killed. Nor are multiprocessing's processes: they bring one more, the resource tracker, and are in the
terminal's reach, so that Ctrl-C meets them too, with a traceback where they still import. These have a session of their own.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import Process
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from msgspec.structs import replace

from ingest import errors, metrics
from ingest.cli import channel
from ingest.cli.channel import Closed, Draining, Orders, Ready, Refused, Report, Taken

RESTART_SECONDS_MIN = 0.5
RESTART_SECONDS_MAX = 30.0
STEADY_SECONDS = 60.0
"""A worker that lived as long is started again without a grudge: after RESTART_SECONDS_MIN."""
ALL_BUSY_SECONDS = 0.01
OUT_OF_DESCRIPTORS_SECONDS = 1.0
SLOW_SECONDS = 1.0
"""A worker that has not taken a connection for so long gets no more, while there are others."""
HUNG_SECONDS_MAX = 30.0
"""One that has not for so long will not: its event loop hangs, or somebody stopped it. It is killed, and another started."""

EXIT_KILLED = 1
"""The stop took too long, and a worker had to be killed."""

logger = logging.getLogger(__name__)


class Supervisor:
    """Runs one worker for each of the orders, on the connections of a socket that listens, until SIGINT or SIGTERM.

    greet: called once, when all workers serve, with what the last one says of its database.
    rates: the descriptor of the memory in which all of them count (ingest.flow.rates).
    metrics_folder: where their metrics are, empty at first (ingest.metrics).
    """

    def __init__(
        self,
        listener: socket.socket,
        orders: Sequence[Orders],
        greet: Callable[[str], None],
        rates: int,
        metrics_folder: str,
    ) -> None:
        self._listener = listener
        self._orders = orders
        self._rates = rates
        self._metrics_folder = metrics_folder
        self._greet = greet
        self._stop_seconds_max = orders[0].settings.shutdown_seconds + channel.STOP_SPARE_SECONDS
        self._workers: dict[int, _Worker] = {}
        self._all_were_ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._connections = 0
        self._handing: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Returns the exit status. Raises errors.SetupError if a worker can't start, before all of them had: it would not do
        so the next time."""
        with self._signals():
            keepers = [asyncio.create_task(self._keep(orders), name=f"worker-{orders.number}") for orders in self._orders]
            distributor = asyncio.create_task(self._distribute(), name="distributor")
            watch = asyncio.create_task(self._watch(), name="watch")
            stopped = asyncio.create_task(self._stopping.wait(), name="stopped")
            try:
                await asyncio.wait([stopped, distributor, *keepers], return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not self._stopping.is_set():
                    self._tell(signal.SIGTERM)
                others = (stopped, distributor, watch, *self._handing)
                for task in others:
                    task.cancel()
                await asyncio.wait(others)
                self._listener.close()
                status = await self._stop(keepers)
                ended = await asyncio.gather(distributor, *keepers, return_exceptions=True)
        for problem in ended:
            if isinstance(problem, Exception):
                raise problem
        return status

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._tell, number)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _tell(self, number: int) -> None:
        """The first signal stops the workers, whichever it is; a second Ctrl-C stops them at once, as it does without us."""
        for worker in self._workers.values():
            worker.signal(number if self._stopping.is_set() else signal.SIGTERM)
        self._stopping.set()

    async def _stop(self, keepers: Sequence[asyncio.Task[None]]) -> int:
        """Waits until all workers are gone, and with them their keepers; by force if they take too long."""
        _, late = await asyncio.wait(keepers, timeout=self._stop_seconds_max)
        if not late:
            return 0
        for worker in self._workers.values():
            logger.error("Worker %s did not stop within %d s, and is killed.", worker, self._stop_seconds_max)
            worker.signal(signal.SIGKILL)
        await asyncio.wait(late)
        return EXIT_KILLED

    async def _keep(self, orders: Orders) -> None:
        """Keeps one worker running until the stop."""
        pause_seconds = RESTART_SECONDS_MIN
        clock = asyncio.get_running_loop().time
        while not self._stopping.is_set():
            started = clock()
            try:
                orders = replace(orders, is_restart=self._all_were_ready.is_set())
                worker = await _Worker.start(orders, self._rates, self._metrics_folder)
            except OSError as error:  # no memory, no processes left
                how = f"Worker {orders.number} can't be started: {error.strerror}"
            else:
                how = await self._accompany(worker)
            if self._stopping.is_set():
                return
            if clock() - started >= STEADY_SECONDS:
                pause_seconds = RESTART_SECONDS_MIN
            logger.warning("%s. Another one starts in %.1f s.", how, pause_seconds)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_seconds)
            pause_seconds = min(2 * pause_seconds, RESTART_SECONDS_MAX)

    async def _accompany(self, worker: "_Worker") -> str:
        """Listens to a worker until it ends; returns how it ended. Raises errors.SetupError as `run`."""
        self._workers[worker.number] = worker
        if self._stopping.is_set():  # since it was started, and nobody told it
            worker.signal(signal.SIGTERM)
        refusal = None
        try:
            async for report in worker.reports():
                match report:
                    case Ready(database):
                        self._welcome(worker, database)
                    case Taken():
                        worker.take()
                    case Closed():
                        worker.connections -= 1
                    case Draining():
                        worker.is_ready = False
                        self._hand_on(worker)
                    case Refused(problem):
                        refusal = problem
            worker.is_ready = False
            self._hand_on(worker)
            status = await worker.ended()
        finally:
            del self._workers[worker.number]
            metrics.forget_worker(worker.number, self._metrics_folder)
        is_starting = not self._all_were_ready.is_set() and not self._stopping.is_set()
        if refusal is not None:
            if is_starting:
                raise errors.SetupError(refusal)
            return f"Worker {worker} can't start: {refusal.rstrip('.')}"
        if status > 0 and is_starting:
            raise errors.SetupError(f"Worker {worker} ended with exit status {status}; the log says why.")
        cause = f"by signal {-status} ({signal.strsignal(-status)})" if status < 0 else f"with exit status {status}"
        return f"Worker {worker} ended {cause}"

    def _welcome(self, worker: "_Worker", database: str) -> None:
        worker.is_ready = True
        if self._all_were_ready.is_set():
            logger.info("Worker %s serves.", worker)
        elif sum(other.is_ready for other in self._workers.values()) == len(self._orders):
            self._all_were_ready.set()
            self._greet(database)

    async def _distribute(self) -> None:
        """Takes connections and hands each to a worker. While there is none, they wait in the kernel's queue."""
        await self._all_were_ready.wait()  # else the first of them would get all who wait
        self._listener.setblocking(False)
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except ConnectionError:  # it was hung up in the queue
                continue
            except OSError as error:
                logger.error("Can't take connections: %s.", error.strerror)  # noqa: TRY400 - its cause is in its words
                await asyncio.sleep(OUT_OF_DESCRIPTORS_SECONDS)
                continue
            await self._hand_over(connection)

    async def _watch(self) -> None:
        """Kills workers that hang."""
        while True:
            await asyncio.sleep(SLOW_SECONDS)
            for worker in self._workers.values():
                if worker.keeps_waiting_seconds() > HUNG_SECONDS_MAX:
                    logger.error("Worker %s took no connection for %d s, and is killed.", worker, HUNG_SECONDS_MAX)
                    worker.signal(signal.SIGKILL)

    def _hand_on(self, worker: "_Worker") -> None:
        """Gives to others what this worker was given and has not taken: nobody has read from it."""
        for connection in worker.untaken():
            if self._stopping.is_set():
                connection.close()
            elif not self._handed(connection):
                handing = asyncio.create_task(self._hand_over(connection), name="hand-over")
                self._handing.add(handing)
                handing.add_done_callback(self._handing.discard)

    async def _hand_over(self, connection: socket.socket) -> None:
        """Gives a connection to a worker, as soon as one is there to take it."""
        try:
            while not self._handed(connection):  # noqa: ASYNC110 - a full channel does not tell when it is no more
                await asyncio.sleep(ALL_BUSY_SECONDS)
        except BaseException:
            connection.close()
            raise

    def _handed(self, connection: socket.socket) -> bool:
        ready = [worker for worker in self._workers.values() if worker.is_ready]
        # Of those with equally many, the one that has waited longest.
        by_load = sorted(ready, key=lambda worker: (worker.connections, worker.last_handed))
        for worker in sorted(by_load, key=lambda worker: worker.keeps_waiting_seconds() > SLOW_SECONDS):
            try:
                worker.hand(connection)
            except OSError:  # it is dying, or so busy that the channel is full
                continue
            self._connections += 1
            worker.last_handed = self._connections
            return True
        return False


class _Worker:
    """A worker's process. `is_ready`: whether it takes connections; `connections`: how many it has, as far as known."""

    def __init__(self, number: int, process: Process, ours: socket.socket) -> None:
        self.number = number
        self.is_ready = False
        self.connections = 0
        self.last_handed = 0
        self._untaken: deque[tuple[socket.socket, float]] = deque()
        self._process = process
        self._channel = ours

    @classmethod
    async def start(cls, orders: Orders, rates: int, metrics_folder: str) -> "_Worker":
        """Starts a process and gives it its orders. Raises OSError if there can be none."""
        ours, its = socket.socketpair()
        try:
            with its:
                process = await asyncio.create_subprocess_exec(
                    # -P, so that a folder `ingest` where we happen to stand is not taken for the package.
                    *(sys.executable, "-P", "-m", "ingest.cli.worker", str(its.fileno()), str(rates)),
                    env={
                        **os.environ,
                        "PYTHONPATH": os.pathsep.join(sys.path),  # it finds what we have found
                        metrics.FILES_VARIABLE: metrics_folder,
                        metrics.WORKER_VARIABLE: str(orders.number),
                    },
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(its.fileno(), rates),
                    # What a terminal sends to all on Ctrl-C, it gets from us alone.
                    start_new_session=True,
                )
            ours.sendall(channel.encode(orders))
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        return cls(orders.number, process, ours)

    def __str__(self) -> str:
        return f"{self.number} (process {self._process.pid})"

    async def reports(self) -> AsyncIterator[Report]:
        """What it says, until it ends. To the last word, because that tells who has a connection: an asyncio stream won't do,
        which drops what is not read yet when an error comes."""
        loop = asyncio.get_running_loop()
        rest = b""
        with contextlib.suppress(ConnectionError):  # it was killed, with connections on their way
            while piece := await loop.sock_recv(self._channel, 65536):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    yield channel.decode_report(line)

    def hand(self, connection: socket.socket) -> None:
        """Gives it a connection, which is closed here when it has taken it. Raises OSError if none can be given now."""
        channel.send_connection(self._channel, connection)
        self._untaken.append((connection, time.monotonic()))
        self.connections += 1

    def take(self) -> None:
        """It took the connection that has waited longest."""
        self._untaken.popleft()[0].close()

    def keeps_waiting_seconds(self) -> float:
        """How long the connection that has waited longest waits to be taken."""
        return time.monotonic() - self._untaken[0][1] if self._untaken else 0.0

    def untaken(self) -> list[socket.socket]:
        """The connections that it has not taken, and is not to take any more."""
        left = [connection for connection, _ in self._untaken]
        self._untaken.clear()
        self.connections -= len(left)
        return left

    def signal(self, number: int) -> None:
        """Sends it a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def ended(self) -> int:
        """Waits for its end, and returns its exit status, or minus the number of the signal that ended it."""
        status = await self._process.wait()
        self._channel.close()
        return status
