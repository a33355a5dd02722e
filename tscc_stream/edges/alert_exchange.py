"""What e-mail and webhook have in common: whom an encrypted connection trusts, and why an exchange failed."""

from __future__ import annotations

import ssl

from tscc_stream.deadline import Deadline

MOST_LETTERS = 200


def trusting(ca_file: str | None) -> ssl.SSLContext:
    """The machine's authorities, and those in ca_file. Raises ValueError where that holds none."""
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise ValueError(f"ca_file {ca_file}: expected certificates as PEM ({error.strerror})") from error
    return context


def why(error: Exception, deadline: Deadline, seconds: float) -> str:
    """In words, on one line. seconds: what the exchange had."""
    if deadline.passed or isinstance(error, TimeoutError):
        return f"no answer within {seconds:g} s"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else error.reason}"
    return one_line(str(error)) or type(error).__name__


def one_line(text: str) -> str:
    """Of what somebody else said, for a log: printable, not long."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:MOST_LETTERS].strip()
