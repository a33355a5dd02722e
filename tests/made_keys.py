"""Keys of a secured bus and of its subscribers."""

from __future__ import annotations

from pathlib import Path

from tscc_stream.bus.keys import CurveKeys, KeyPair, write_new_pair
from tscc_stream.config import CurveConfig, PublishConfig

ANY = "tcp://127.0.0.1:0"


class Keyring:
    """The daemon's key pair, a list of allowed keys, and subscribers by name, all in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = write_new_pair(folder / "daemon.key")
        self.allowed = folder / "allowed"
        self.pairs: dict[str, KeyPair] = {}

    def allow(self, *names: str) -> None:
        lines = [f"{self.pair(name).public} # {name}" for name in names]
        self.allowed.write_text("\n".join(["# who may connect", "", *lines, ""]))

    def pair(self, name: str) -> KeyPair:
        if name not in self.pairs:
            self.pairs[name] = write_new_pair(self.folder / f"{name}.key")
        return self.pairs[name]

    def subscriber(self, name: str) -> CurveKeys:
        self.pair(name)
        return CurveKeys(str(self.folder / "daemon.key.pub"), self.folder / f"{name}.key")

    def config(self, heartbeat_seconds: float = 0.05, bind: str = ANY, replay_bind: str = ANY) -> PublishConfig:
        curve = CurveConfig(secret_key_file=str(self.folder / "daemon.key"), allowed_keys_file=str(self.allowed))
        return PublishConfig(bind=bind, replay_bind=replay_bind, heartbeat_seconds=heartbeat_seconds, curve=curve)
