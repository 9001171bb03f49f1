"""`guard serve`: the application and uvicorn in this process, the model in one of its own.

The one rule: standard output gets one line, when the service really listens; everything else is logged to stderr.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import signal
import socket

import uvicorn

from guard.errors import InvalidSettings
from guard.loading import load_moderator
from guard.service.app import create_app
from guard.settings import Settings

_GRACE = 30  # seconds for requests under way when the service is told to stop


class _Server(uvicorn.Server):
    """uvicorn, saying where it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or ():
            host, port = listening.getsockname()[:2]
            print(f"guard serves on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way. Raises what loading raises."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both end in KeyboardInterrupt, also while loading
    with contextlib.suppress(KeyboardInterrupt), _bound(settings) as listening:
        app = create_app(load_moderator(settings, apart=True), settings)
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=_GRACE)
        _Server(config).run([listening])


def _bound(settings: Settings) -> socket.socket:
    """A socket at the address, before the model is loaded for nothing. Raises `InvalidSettings`, also where others
    could reach it and no key is asked for."""
    host, port = settings.host, settings.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        here = ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback  # behind % stands a network card
        if settings.keys is None and not settings.open_access and not here:
            raise InvalidSettings(
                f"{host} can be reached from other machines, and no key is asked for.",
                hint="Make keys with `guard keys create` and name their file (GUARD_KEYS), or set open_access.",
            )
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as cause:
        raise InvalidSettings(
            f"Cannot listen on {host}:{port}: {cause.strerror or cause}.", hint="Choose another --host or --port."
        ) from cause
    return bound
