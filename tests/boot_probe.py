"""Runs inside the container of test_unit_boots.py: starts the units, writes what it sees to found.json beside it."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

SITES = {"tscc-stream@north": ("north", 6012), "tscc-stream@south": ("south", 6022)}
WORD = "correct horse battery"
EXPECTED = 20
BESIDE = ("tscc-alert", "tscc-console")


def systemctl(*arguments: str) -> int:
    return subprocess.run(["systemctl", *arguments], check=False).returncode


def properties(unit: str) -> dict[str, str]:
    shown = subprocess.run(["systemctl", "show", unit], check=True, capture_output=True, text=True).stdout
    return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)


def detections(user: str, port: int) -> int:
    """How many there are in the end, or after a minute."""
    told = base64.b64encode(f"{user}:{WORD}".encode()).decode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Authorization": f"Basic {told}"})
    count = 0
    for _ in range(120):
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  # http
                counts = re.findall(r"^tscc_detections_total\{.*\} (\S+)$", answer.read().decode(), re.MULTILINE)
        except urllib.error.URLError:
            return -1
        if (count := int(sum(map(float, counts)))) >= EXPECTED:
            break
        time.sleep(0.5)
    return count


def look(unit: str, user: str, port: int) -> dict[str, Any]:
    pid = properties(unit)["MainPID"]
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8") if pid != "0" else ""
    facts: dict[str, Any] = dict(re.findall(r"^(Seccomp|CapEff|Uid):\t(\S+)", status, re.MULTILINE))
    credentials = Path("/proc", pid, "root", "run", "credentials")  # as the service sees it
    facts["credentials"] = sorted(one.name for one in credentials.iterdir()) if credentials.is_dir() else []
    facts["detections"] = detections(user, port)
    return facts


def pages() -> dict[str, int]:
    """What the console answers, page by page, once it can; 0 where nobody answers for a minute."""
    found = {}
    for page in ("live", "events", "clusters", "health"):
        found[page] = 0
        for _ in range(120):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:8108/{page}", timeout=10) as answer:
                    found[page] = answer.status
                break
            except urllib.error.HTTPError as error:
                found[page] = error.code
                break
            except urllib.error.URLError:
                time.sleep(0.5)
    return found


def beside() -> dict[str, dict[str, Any]]:
    """Alerts and console while the daemon runs."""
    found: dict[str, dict[str, Any]] = {unit: {"start": systemctl("start", unit)} for unit in BESIDE}
    found["tscc-console"]["pages"] = pages()
    rehearsal = subprocess.run(
        ["/opt/tscc-stream/bin/tscc-stream", "alert", "list", "--config", "/etc/tscc-stream/config.yaml"],
        check=False, capture_output=True, text=True, env={"PYTHONPATH": "/opt/source", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    found["tscc-alert"]["list"] = rehearsal.returncode
    found["tscc-alert"]["list says"] = rehearsal.stdout + rehearsal.stderr
    return {unit: facts | ended(unit) for unit, facts in found.items()}


def ended(unit: str) -> dict[str, Any]:
    systemctl("stop", unit)
    known = properties(unit)
    log = subprocess.run(
        ["journalctl", "-o", "cat", "--no-pager", "-u", unit], check=False, capture_output=True, text=True
    )
    return {"Result": known["Result"], "ExecMainStatus": known["ExecMainStatus"], "journal": log.stdout}


def main() -> None:
    found: dict[str, dict[str, Any]] = {}
    systemctl("start", "replay")
    found["tscc-stream"] = {"start": systemctl("start", "tscc-stream"), **look("tscc-stream", "", 6002)}
    found |= beside()
    found["tscc-stream"]["reload"] = systemctl("reload", "tscc-stream")
    found["tscc-stream"] |= ended("tscc-stream")
    for folder in ("lib", "cache"):
        for state in (f"/var/{folder}/private/tscc-stream", f"/var/{folder}/tscc-stream"):
            subprocess.run(["rm", "-rf", state], check=True)
    for unit in SITES:
        found[unit] = {"start": systemctl("start", unit)}
    for unit, (user, port) in SITES.items():
        found[unit] |= look(unit, user, port)
    for unit in SITES:
        found[unit] |= ended(unit)
    Path(__file__).with_name("found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
