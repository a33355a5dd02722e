"""A webhook server and an SMTP server in a process of their own, to be stopped and started again.

`alert_receivers.py LOG [WEBHOOK_PORT SMTP_PORT [STATUS [CERTIFICATE KEY]]]` prints both ports, and appends to LOG a
line of JSON for everything that it has answered with success: {"by": "webhook", "key", "document"} or {"by": "mail",
"key", "subject", "text"}. STATUS: what the webhook answers instead of 200. With a certificate the webhook is HTTPS, and
the SMTP server takes mail only after STARTTLS from a user `mine` with the password `sesame`.
"""

from __future__ import annotations

import base64
import email
import email.policy
import json
import socketserver
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LOCK = threading.Lock()


class Log:
    path: Path
    status = 200
    tls: ssl.SSLContext | None = None

    @classmethod
    def add(cls, entry: dict[str, Any]) -> None:
        with LOCK, cls.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


class Webhook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if Log.status == 200:
            headers = {name.lower(): value for name, value in self.headers.items()}
            entry = {"by": "webhook", "key": self.headers["Idempotency-Key"], "document": json.loads(body)}
            Log.add({**entry, "headers": headers, "path": self.path})
        self.send_response(Log.status)
        self.end_headers()
        self.wfile.write(b"said")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name that http.server gives it
        pass


class Smtp(socketserver.StreamRequestHandler):
    """As much of RFC 5321 as a client needs; a recipient `nobody@` is refused."""

    admitted = False

    def handle(self) -> None:
        self._say("220 test")
        self.admitted = Log.tls is None
        while line := self.rfile.readline().decode().strip():
            verb = line.split(" ")[0].upper()
            if verb == "QUIT":
                self._say("221 bye")
                return
            getattr(self, f"_{verb.lower()}", self._other)(line)

    def _other(self, line: str) -> None:
        if not self.admitted and line.upper().startswith("MAIL"):
            self._say("530 who are you")
        else:
            self._say("550 no such user" if "nobody@" in line else "250 ok")

    def _ehlo(self, _line: str) -> None:
        self._say("250-test\r\n250-AUTH PLAIN\r\n250 STARTTLS" if Log.tls else "250 test")

    def _starttls(self, _line: str) -> None:
        assert Log.tls is not None
        self._say("220 go on")
        self.connection = Log.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)

    def _auth(self, line: str) -> None:
        said = base64.b64decode(line.split(" ")[2]).split(b"\0")[1:]
        self.admitted = isinstance(self.connection, ssl.SSLSocket) and said == [b"mine", b"sesame"]
        self._say("235 welcome" if self.admitted else f"535 not with {said!r}")

    def _data(self, _line: str) -> None:
        self._say("354 go on")
        lines = []
        while (line := self.rfile.readline()) not in {b".\r\n", b""}:
            lines.append(line)
        message = email.message_from_bytes(b"".join(lines), policy=email.policy.default)
        key = str(message["Message-ID"]).strip("<>").partition("@")[0]
        body = message.get_body()
        assert body is not None
        Log.add({"by": "mail", "key": key, "subject": str(message["Subject"]), "text": body.get_content()})
        self._say("250 taken")

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def main(
    log: Path, webhook_port: str = "0", smtp_port: str = "0", status: str = "200", certificate: str = "", key: str = ""
) -> None:
    Log.path, Log.status = log, int(status)
    webhook = ThreadingHTTPServer(("127.0.0.1", int(webhook_port)), Webhook)
    if certificate:
        Log.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        Log.tls.load_cert_chain(certificate, key)
        webhook.socket = Log.tls.wrap_socket(webhook.socket, server_side=True)
    smtp = Server(("127.0.0.1", int(smtp_port)), Smtp)
    threading.Thread(target=smtp.serve_forever, daemon=True).start()
    sys.stdout.write(f"{webhook.server_address[1]} {smtp.server_address[1]}\n")
    sys.stdout.flush()
    webhook.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
