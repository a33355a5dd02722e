"""Real-time clustering of microseismic events with TSCC: SeedLink in, clustered detections out.

The public interface for notebooks and programs (docs/api.md) is loaded when it is first used, so that importing this
package takes no time.
"""

from importlib import import_module

__version__ = "0.1.0"

_OF_API = ("Detection", "NetworkEvent", "Result", "Trace", "classify", "open_package", "read", "subscribe")
_PUBLIC = dict.fromkeys(_OF_API, "api") | {"Subscriber": "client"}
__all__ = ["__version__", *sorted(_PUBLIC)]  # noqa: PLE0604  # names of text


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
