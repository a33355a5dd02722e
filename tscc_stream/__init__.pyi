from tscc_stream.api import Detection as Detection
from tscc_stream.api import NetworkEvent as NetworkEvent
from tscc_stream.api import Result as Result
from tscc_stream.api import Trace as Trace
from tscc_stream.api import classify as classify
from tscc_stream.api import open_package as open_package
from tscc_stream.api import read as read
from tscc_stream.api import subscribe as subscribe
from tscc_stream.client import Subscriber as Subscriber

__version__: str
