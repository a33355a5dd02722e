"""An alert as an e-mail over SMTP (RFC 5321), encrypted by STARTTLS or from the start."""

from __future__ import annotations

import smtplib
import socket
import ssl
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime

from tscc_stream import credentials
from tscc_stream.config_alerts import MailConfig
from tscc_stream.config_section import split_host_port
from tscc_stream.credentials import CredentialError
from tscc_stream.deadline import Deadline
from tscc_stream.edges.alert_exchange import one_line, trusting, why


class MailError(RuntimeError):
    """It was not delivered, and why, in one sentence without any secret."""


def letter(config: MailConfig, subject: str, text: str, key: str, at: datetime, severity: str) -> EmailMessage:
    """The e-mail of an alert. key: makes the Message-ID, the same however often one alert is sent."""
    message = EmailMessage()
    message["Subject"] = " ".join(subject.split())
    message["From"] = config.sender
    message["To"] = ", ".join(config.recipients)
    message["Date"] = format_datetime(at)
    message["Message-ID"] = f"<{key}@{config.sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: so that nobody's absence is answered
    if severity == "critical":
        message["X-Priority"] = "1"
    message.set_content(text)
    return message


def send(config: MailConfig, message: EmailMessage) -> str:
    """Deliver it; what became of it. Blocks for timeout_seconds at most. Raises MailError.

    Delivered is what the server takes for at least one recipient; those that it refuses are named.
    """
    with Deadline(config.timeout_seconds) as deadline:
        try:
            refused = _exchange(config, message, deadline)
        except CredentialError as error:
            raise MailError(str(error)) from error
        except smtplib.SMTPRecipientsRefused as error:
            raise MailError(f"refused: {_named(error.recipients)}") from error
        except smtplib.SMTPAuthenticationError as error:  # its text may repeat what it was sent
            raise MailError(f"SMTP {error.smtp_code}: the server refuses user and password") from error
        except smtplib.SMTPResponseException as error:
            raise MailError(f"SMTP {error.smtp_code} {_text(error.smtp_error)}") from error
        except (OSError, smtplib.SMTPException, ValueError) as error:
            raise MailError(why(error, deadline, config.timeout_seconds)) from error
    taken = len(config.recipients) - len(refused)
    return f"taken for {taken}" + (f"; refused: {_named(refused)}" if refused else "")


def _exchange(config: MailConfig, message: EmailMessage, deadline: Deadline) -> dict[str, tuple[int, bytes]]:
    host, port = split_host_port(config.server)
    link = _link(config, deadline)
    try:
        link.connect(host, port)
        link.ehlo_or_helo_if_needed()
        if config.tls == "starttls":
            link.starttls(context=trusting(config.ca_file))
            deadline.guard(link.sock)
            link.ehlo()
        if config.user is not None and config.password_file is not None:
            link.login(config.user, credentials.read(config.password_file, "password_file"))
        refused: dict[str, tuple[int, bytes]] = link.send_message(message, config.sender, list(config.recipients))
    finally:
        link.close()  # no QUIT: what was answered counts, and an answer to a farewell is not waited for
    return refused


class _Plain(smtplib.SMTP):
    """Guarded before the server's greeting is waited for."""

    deadline: Deadline

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        self._host = host  # whom STARTTLS expects
        return self.deadline.connected((host, port), timeout)


class _Encrypted(_Plain):
    """The same, encrypted from the start."""

    context: ssl.SSLContext

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return self.deadline.connected((host, port), timeout, self.context)


def _link(config: MailConfig, deadline: Deadline) -> smtplib.SMTP:
    name = socket.gethostname()  # smtplib would ask the name service who we are: mines have none
    if config.tls == "tls":
        encrypted = _Encrypted(local_hostname=name, timeout=config.timeout_seconds)
        encrypted.deadline, encrypted.context = deadline, trusting(config.ca_file)
        return encrypted
    plain = _Plain(local_hostname=name, timeout=config.timeout_seconds)
    plain.deadline = deadline
    return plain


def _named(refused: dict[str, tuple[int, bytes]]) -> str:
    return "; ".join(f"{who} ({code} {_text(text)})" for who, (code, text) in list(refused.items())[:5])


def _text(answer: bytes | str) -> str:
    return one_line(answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer)
