"""Opens the socket and keeps the server going until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType, TracebackType

import uvicorn

from headway.core import Clock, HeadwayError, MonotonicClock, UsageError
from headway.server.app import App
from headway.server.protocol import Protocol
from headway.server.settings import ServedModel, ServerSettings

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_server(
    models: Sequence[ServedModel],
    settings: ServerSettings,
    on_ready: Callable[[str], None] | None = None,
    clock: Clock | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; then finish what was accepted and return.

    Call it in the main thread, or use ``BackgroundServer``.

    Args:
        models: what to serve; their names must differ.
        settings: where to listen and what to refuse.
        on_ready: called with the server's URL once it accepts connections.
        clock: tells the time; the machine's by default.

    Raises:
        UsageError: if the models or the address cannot be served.
        HeadwayError: if a model cannot be started.
    """

    def ready(url: str) -> None:
        # What lives now lives to the end: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        if on_ready is not None:
            on_ready(url)

    server = _server(models, settings, ready, clock or MonotonicClock())
    before = sys.getswitchinterval()
    sys.setswitchinterval(settings.switch_interval_us / 1e6)
    try:
        server.run_until_stopped()
    finally:
        sys.setswitchinterval(before)
        gc.unfreeze()


class BackgroundServer:
    """The same server in a thread of this process; a context manager.

    Attributes:
        url: where it listens, once started.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        settings: ServerSettings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.url = ""
        self._started = threading.Event()
        settings = settings or ServerSettings(port=0)
        self._server = _server(models, settings, self._on_ready, clock or MonotonicClock())
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="headway-server", daemon=True)

    def start(self) -> str:
        """Return the server's URL once it accepts connections.

        Raises:
            HeadwayError: if a model cannot be started.
        """
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            raise self._error
        return self.url

    def begin_drain(self) -> None:
        """Begin to stop, as a signal would, and return at once."""
        self._server.begin_drain()

    def stop(self) -> None:
        """Finish what was accepted and stop; returns when the server has."""
        self._server.begin_drain()
        self._thread.join()

    def __enter__(self) -> BackgroundServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _on_ready(self, url: str) -> None:
        self.url = url
        self._started.set()

    def _run(self) -> None:
        try:
            self._server.run_until_stopped()
        except Exception as error:  # noqa: BLE001 - raised again in the thread that started us
            self._error = error
        finally:
            self._started.set()


class _Server(uvicorn.Server):
    """Uvicorn with our own idea of signals, and a word when it is ready."""

    def __init__(
        self,
        app: App,
        settings: ServerSettings,
        listener: socket.socket,
        on_ready: Callable[[str], None] | None,
    ) -> None:
        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            limit_concurrency=settings.max_connections,
            timeout_graceful_shutdown=settings.drain_s,
        )
        super().__init__(config)
        self._app = app
        self._listener = listener
        self._on_ready = on_ready
        self._loop: asyncio.AbstractEventLoop | None = None

    def run_until_stopped(self) -> None:
        """Serve; returns after draining.

        Raises:
            HeadwayError: if a model cannot be started.
        """
        try:
            self.run(sockets=[self._listener])
        except SystemExit:
            if isinstance(self._app.failure, HeadwayError):
                raise self._app.failure from None
            raise HeadwayError("a model could not be started") from self._app.failure
        finally:
            self._app.close()
            self._listener.close()

    def begin_drain(self) -> None:
        """Report not ready, then stop once what was accepted is answered.

        Takes no lock, since a signal may come while this very thread holds one.
        """
        self.should_exit = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._app.drain)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, and say so."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started and self._on_ready is not None:
            self._on_ready(_url(self._listener))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Drain at the first signal; stop at once at the second."""
        if self.should_exit:
            self.force_exit = True
        self.begin_drain()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while serving.

        Unlike uvicorn's own, does not raise them again afterwards: a drained server ended well
        and its process exits with 0.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.signal(sig, self.handle_exit) for sig in _SIGNALS}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)


def _server(
    models: Sequence[ServedModel],
    settings: ServerSettings,
    on_ready: Callable[[str], None] | None,
    clock: Clock,
) -> _Server:
    names = [model.name for model in models]
    if not names or len(set(names)) != len(names):
        raise UsageError(f"models to serve need names of their own, these are {names}")
    app = App(models, settings, clock)
    return _Server(app, settings, _listen(settings), on_ready)


def _listen(settings: ServerSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}; "
            "choose another port, or 0 for any that is free"
        ) from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
