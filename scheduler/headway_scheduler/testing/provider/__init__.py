"""A simulated provider: an OpenAI-compatible HTTP server on loopback with limits and a ledger.

It is the oracle of the project's tests, so it shares no code with the rest of the project and
imports nothing of it. ``limits``, ``windows``, ``gate`` and ``refusals`` admit or refuse a request;
``replies``, ``vectors`` and ``faults`` make the answer. ``frontend`` decides which, ``server``
sends it, and ``ledger`` records every request and checks the limits against its records.
"""

from .batches import BatchFault
from .delivery import Latency
from .faults import FAULT_HEADER, Fault, FaultKind
from .frontend import FaultSchedule, Settings
from .gate import ANY_MODEL
from .ledger import Entry, Ledger, Load
from .limits import Charging, HeaderStyle, Limits
from .replies import Reply, ReplyFunction, ToolCall
from .request import Body, estimate_tokens
from .server import SimulatedProvider, simulated_provider
from .windows import WindowKind

__all__ = [
    "ANY_MODEL",
    "FAULT_HEADER",
    "BatchFault",
    "Body",
    "Charging",
    "Entry",
    "Fault",
    "FaultKind",
    "FaultSchedule",
    "HeaderStyle",
    "Latency",
    "Ledger",
    "Limits",
    "Load",
    "Reply",
    "ReplyFunction",
    "Settings",
    "SimulatedProvider",
    "ToolCall",
    "WindowKind",
    "estimate_tokens",
    "simulated_provider",
]
