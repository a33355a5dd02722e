"""A SeedLink server with TLS in a process of its own: python tls_process.py KEY CERTIFICATE. Prints its address."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from contextlib import suppress

from seedlink_fakes import FakeServer, Packet, record


def talk(link: socket.socket, context: ssl.SSLContext) -> None:
    script = FakeServer([Packet(number, record(second=number - 1)) for number in (1, 2, 3)])
    with suppress(OSError), context.wrap_socket(link, server_side=True) as secret:
        while data := secret.recv(4096):
            secret.sendall(script.feed(data))


def main(key: str, certificate: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sys.stdout.write(f"127.0.0.1:{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        while True:
            link, _ = listener.accept()
            threading.Thread(target=talk, args=(link, context), daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
