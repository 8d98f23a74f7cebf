"""A simulated provider: an OpenAI-compatible HTTP server on loopback with limits and a ledger.

It is the oracle of our tests, so it shares no code with what is tested: it imports nothing else of
this project. ``limits``, ``gate`` and ``refusals`` say who gets in, ``replies``, ``vectors`` and
``faults`` what comes back, ``frontend`` decides, ``server`` carries it out, ``ledger`` remembers
and judges.
"""

from .delivery import Latency
from .faults import FAULT_HEADER, Fault, FaultKind
from .frontend import FaultSchedule, Settings
from .gate import ANY_MODEL
from .ledger import Entry, Ledger, Load
from .limits import Charging, Limits
from .replies import Reply, ReplyFunction, ToolCall
from .request import Body, estimate_tokens
from .server import SimulatedProvider, simulated_provider

__all__ = [
    "ANY_MODEL",
    "FAULT_HEADER",
    "Body",
    "Charging",
    "Entry",
    "Fault",
    "FaultKind",
    "FaultSchedule",
    "Latency",
    "Ledger",
    "Limits",
    "Load",
    "Reply",
    "ReplyFunction",
    "Settings",
    "SimulatedProvider",
    "ToolCall",
    "estimate_tokens",
    "simulated_provider",
]
