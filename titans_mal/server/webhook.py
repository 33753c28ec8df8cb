"""Send signed JSON to an allowed address, with retries."""

from __future__ import annotations

import hashlib
import heapq
import hmac
import http.client
import ipaddress
import itertools
import json
import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit


logger = logging.getLogger("titans_mal.server")

# Responses after which a webhook is retried; other failures are final. Redirects are not followed.
_LATER = {408, 425, 429, *range(500, 600)}
# Addresses of IPv6 that are assigned to hosts.
_NATIVE = ipaddress.IPv6Network("2000::/3")
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class AllowList:
    """Allowed addresses of webhooks.

    A host is allowed by its name, at its public addresses; networks ("10.1.0.0/16", "127.0.0.1") allow addresses,
    including private ones, under any name.

    Args:
        entries: names of hosts, addresses and networks.

    Raises:
        ValueError: for an empty list or an invalid entry.
    """

    def __init__(self, entries: Sequence[str]):
        self._networks: list[_Network] = []
        self._hosts: set[str] = set()
        for entry in entries:
            try:
                self._networks.append(ipaddress.ip_network(entry))
            except ValueError:
                if not entry or "/" in entry or ":" in entry:
                    raise ValueError(f"An entry must be the name of a host or a network, got {entry!r}.") from None
                self._hosts.add(entry.lower())
        if not entries:
            raise ValueError("No host is allowed: give the hosts or networks to which alerts may be sent.")

    def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host, all of which must be allowed.

        Raises:
            PermissionError: if an address is not allowed.
            OSError: if it has none.
        """
        found = [ipaddress.ip_address(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        for address in found:
            is_allowed = host.lower() in self._hosts and _is_public(address)
            if not is_allowed and not any(address in network for network in self._networks):
                raise PermissionError(f"{host} at {address} is not among the allowed hosts and networks.")
        return [str(address) for address in dict.fromkeys(found)]


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is public, and embeds no other one, as those of NAT64, 6to4 and Teredo do."""
    if isinstance(address, ipaddress.IPv6Address):
        is_native = address in _NATIVE and address.sixtofour is None and address.teredo is None
        return is_native and address.is_global
    return address.is_global and not address.is_multicast


class Webhook:
    """Posts signed JSON from a separate thread; failures are retried with increasing delays.

    A receiver checks `X-Titans-Signature`, the HMAC-SHA256 in hex of `X-Titans-Timestamp`, a dot and the body, with
    the common secret, and that the timestamp is recent.

    Args:
        url: http or https.
        secret: secret key of the signature.
        allowed: addresses; the host is resolved and checked before every try, and the connection goes to the checked
            address.
        tries: maximal number for each message.
        first_delay: seconds before the second try; doubled for each later one, up to ten minutes.
        timeout: maximal time of a try, in seconds.
        count: called with the outcome of each try: "sent", "retried" or "dropped".

    Attributes:
        count: the function that counts outcomes.

    Raises:
        ValueError: for an invalid URL, an empty secret, or a host that is not allowed.
    """

    _MOST = 1000

    def __init__(
        self,
        url: str,
        secret: str,
        allowed: AllowList,
        *,
        tries: int = 6,
        first_delay: float = 1.0,
        timeout: float = 10.0,
        count: Callable[[str], None] = lambda outcome: None,
    ):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise ValueError(
                f"A webhook needs an http:// or https:// URL without user name and password, got {url!r}."
            )
        if not secret:
            raise ValueError("A webhook needs a secret, which signs the messages.")
        self._host, self._is_tls = parts.hostname, parts.scheme == "https"
        self._port = parts.port or (443 if self._is_tls else 80)
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._secret, self._allowed = secret.encode(), allowed
        self._tries, self._first_delay, self._timeout, self.count = tries, first_delay, timeout, count
        try:
            allowed.addresses(self._host, self._port)
        except PermissionError as error:
            raise ValueError(str(error)) from None
        except OSError as error:
            logger.warning("The webhook's host cannot be resolved now: %s", error)
        self._due: list[tuple[float, int, int, bytes]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._is_closed = False
        self._worker = threading.Thread(target=self._work, name="Webhook", daemon=True)
        self._worker.start()

    def send(self, content: Mapping[str, Any]) -> None:
        """Queue a message; if a thousand are waiting, it is dropped with a log message."""
        body = json.dumps(content).encode()
        with self._changed:
            if self._is_closed or len(self._due) >= self._MOST:
                self._drop("too many alerts wait")
                return
            heapq.heappush(self._due, (time.monotonic(), next(self._numbers), 1, body))
            self._changed.notify()

    def close(self, seconds: float = 15.0) -> None:
        """Try each waiting message once more, for at most `seconds`, and stop."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._worker.join(seconds)
        with self._changed:
            dropped, self._due = self._due, []
        for _ in dropped:
            self._drop("the server stops")

    def _work(self) -> None:
        while (message := self._next()) is not None:
            number, attempt, body = message
            try:
                status = self._post(body)
            except PermissionError as error:
                self._drop(str(error))
            except (OSError, http.client.HTTPException) as error:
                self._try_later(number, attempt, body, str(error))
            else:
                if 200 <= status < 300:
                    self.count("sent")
                elif status in _LATER:
                    self._try_later(number, attempt, body, f"status {status}")
                else:
                    self._drop(f"status {status}")

    def _next(self) -> tuple[int, int, bytes] | None:
        with self._changed:
            while True:
                left = self._due[0][0] - time.monotonic() if self._due else None
                if self._due and (self._is_closed or left is None or left <= 0):
                    return heapq.heappop(self._due)[1:]
                if self._is_closed:
                    return None
                self._changed.wait(left)

    def _try_later(self, number: int, attempt: int, body: bytes, why: str) -> None:
        with self._changed:
            if attempt >= self._tries or self._is_closed:
                self._drop(f"{why}, after {attempt} tries")
                return
            delay = min(600.0, self._first_delay * 2 ** (attempt - 1)) * random.uniform(0.8, 1.2)
            heapq.heappush(self._due, (time.monotonic() + delay, number, attempt + 1, body))
        self.count("retried")

    def _drop(self, why: str) -> None:
        self.count("dropped")
        logger.warning("An alert is dropped: %s", why)

    def _post(self, body: bytes) -> int:
        """The status of a response."""
        address = self._allowed.addresses(self._host, self._port)[0]
        now = str(int(time.time()))
        signature = hmac.new(self._secret, f"{now}.".encode() + body, hashlib.sha256).hexdigest()
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        # Connects only to the address that was checked, whatever the name resolves to by now.
        connection.sock = socket.create_connection((address, self._port), self._timeout)
        try:
            if self._is_tls:
                context = ssl.create_default_context()
                connection.sock = context.wrap_socket(connection.sock, server_hostname=self._host)
            headers = {
                "Content-Type": "application/json",
                "X-Titans-Timestamp": now,
                "X-Titans-Signature": signature,
            }
            connection.request("POST", self._path, body, headers)
            return connection.getresponse().status
        finally:
            connection.close()
