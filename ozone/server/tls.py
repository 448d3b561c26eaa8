"""Certificates for HTTPS: checked before a model is loaded, and read again when their files change."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl

from ozone.errors import ConfigError
from ozone.server.flags import ServerSettings

logger = logging.getLogger(__name__)

# How often the files are looked at.
REFRESH_SECONDS = 5.0


def check_tls(settings: ServerSettings) -> None:
    """Raises ConfigError for files that hold no certificates, and for ciphers that OpenSSL does not know."""
    if settings.ssl_certfile is None:
        if settings.ssl_refresh:
            raise ConfigError("--enable-ssl-refresh needs --ssl-certfile")
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        _load(context, settings)
    except (ssl.SSLError, OSError) as error:
        files = " and ".join(filter(None, (settings.ssl_certfile, settings.ssl_keyfile)))
        raise ConfigError(
            f"--ssl-certfile: {files} hold no certificate with its key ({_reason(error)})"
        ) from None
    try:
        if settings.ssl_ca_certs is not None:
            context.load_verify_locations(settings.ssl_ca_certs)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"--ssl-ca-certs: {settings.ssl_ca_certs} holds no certificates ({_reason(error)})"
        ) from None
    try:
        if settings.ssl_ciphers is not None:
            context.set_ciphers(settings.ssl_ciphers)
    except ssl.SSLError:
        raise ConfigError(f"--ssl-ciphers {settings.ssl_ciphers}: OpenSSL knows no such ciphers") from None


async def refresh_tls(context: ssl.SSLContext | None, settings: ServerSettings) -> None:
    """Give new connections the certificate that the files hold now, until this is cancelled."""
    if context is None:
        return
    seen = _modified(settings)
    while True:
        await asyncio.sleep(REFRESH_SECONDS)
        now = _modified(settings)
        if now == seen:
            continue
        seen = now
        try:
            _load(context, settings)
            if settings.ssl_ca_certs is not None:
                context.load_verify_locations(settings.ssl_ca_certs)
        except (ssl.SSLError, OSError) as error:
            logger.warning("the certificate's files have changed and cannot be used: %s", _reason(error))
        else:
            logger.info("the certificate was read again")


def _load(context: ssl.SSLContext, settings: ServerSettings) -> None:
    assert settings.ssl_certfile is not None
    # Without a password OpenSSL would ask for one on the terminal, and wait.
    context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, password="")


def _modified(settings: ServerSettings) -> list[float]:
    times = []
    for file in (settings.ssl_certfile, settings.ssl_keyfile, settings.ssl_ca_certs):
        try:
            times.append(os.stat(file).st_mtime if file else 0.0)
        except OSError:  # it is being replaced
            times.append(-1.0)
    return times


def _reason(error: ssl.SSLError | OSError) -> str:
    return str(getattr(error, "reason", None) or error.strerror or error)
