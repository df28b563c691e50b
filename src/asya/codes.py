"""Every code of an error, once: what users quote, search for, and give to `asya explain`.

A code is never given to something else. The first digit says where it belongs: 1 what the user
gave, 2 what happens to an envelope, 3 handlers and replicas, 4 the broker, 5 the stores, 6 the
gateway's refusals, 9 mistakes of ours. The texts behind the codes are in `error_pages/`; a test
holds codes and pages together. Known to `errors` and to everything above it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Code(StrEnum):
    """The codes; the value is what is printed."""

    # 10 the command line
    USAGE = "ASYA-1001"
    COMMAND_UNKNOWN = "ASYA-1002"
    PAYLOAD_NOT_JSON = "ASYA-1003"
    NAME_UNKNOWN = "ASYA-1004"
    FILE_UNREADABLE = "ASYA-1005"
    CODE_UNKNOWN = "ASYA-1006"
    # 11 manifests
    MANIFEST = "ASYA-1101"
    MANIFEST_MISSING = "ASYA-1102"
    MANIFEST_UNREADABLE = "ASYA-1103"
    MANIFEST_FOREIGN = "ASYA-1104"
    FIELD_UNKNOWN = "ASYA-1105"
    FIELD_MISSING = "ASYA-1106"
    FIELD_INVALID = "ASYA-1107"
    NAME_TAKEN = "ASYA-1108"
    FIELDS_CONTRADICT = "ASYA-1109"
    FUNCTION_UNUSABLE = "ASYA-1110"
    NAMESPACE_FOREIGN = "ASYA-1111"
    # 12 settings
    SETTINGS = "ASYA-1201"
    SETTING_UNKNOWN = "ASYA-1202"
    SETTINGS_CONTRADICT = "ASYA-1203"
    ADDRESS_MISSING = "ASYA-1204"
    # 13 the mesh on this machine
    MESH_RUNNING = "ASYA-1301"
    MESH_UNREACHABLE = "ASYA-1302"
    PORT_UNUSABLE = "ASYA-1303"
    DATA_UNUSABLE = "ASYA-1304"
    VALUE_MISSING = "ASYA-1305"
    DOTENV_UNREADABLE = "ASYA-1306"
    MEMORY_LIMIT = "ASYA-1307"
    EXTRA_MISSING = "ASYA-1308"
    PYTHON_UNUSABLE = "ASYA-1309"
    FILES_LIMIT = "ASYA-1310"
    CLOCK_WRONG = "ASYA-1311"
    MESH_LEFTOVERS = "ASYA-1312"
    # 20 envelopes
    ENVELOPE = "ASYA-2001"
    PARSE_ERROR = "ASYA-2002"
    ROUTE_MISMATCH = "ASYA-2003"
    UNKNOWN_ACTOR = "ASYA-2004"
    POLICY_EXHAUSTED = "ASYA-2005"
    POLICY_ROUTED = "ASYA-2006"
    DEADLINE_EXCEEDED = "ASYA-2007"
    HOP_LIMIT = "ASYA-2008"
    POISON_MESSAGE = "ASYA-2009"
    # 30 what a handler did
    HANDLER_RAISED = "ASYA-3001"
    ACTOR_TIMEOUT = "ASYA-3002"
    PAYLOAD_TOO_LARGE = "ASYA-3003"
    PAYLOAD_MISFIT = "ASYA-3004"
    # 31 loading a handler
    HANDLER_LOAD = "ASYA-3101"
    HANDLER_NAME = "ASYA-3102"
    HANDLER_MODULE = "ASYA-3103"
    HANDLER_IMPORT = "ASYA-3104"
    HANDLER_MISSING = "ASYA-3105"
    HANDLER_SIGNATURE = "ASYA-3106"
    HANDLER_CLASS = "ASYA-3107"
    HANDLER_SLOW = "ASYA-3108"
    # 32 replicas
    REPLICA = "ASYA-3201"
    REPLICA_GONE = "ASYA-3202"
    REPLICA_PROTOCOL = "ASYA-3203"
    # 40 the broker
    TRANSPORT = "ASYA-4001"
    TRANSPORT_UNAVAILABLE = "ASYA-4002"
    QUEUE_MISSING = "ASYA-4003"
    MESSAGE_TOO_LARGE = "ASYA-4004"
    BROKER_MISSING = "ASYA-4005"
    BROKER_GONE = "ASYA-4006"
    BROKER_DISK_FULL = "ASYA-4007"
    BROKER_OUTDATED = "ASYA-4008"
    # 50 the task store
    STORE = "ASYA-5001"
    STORE_FULL = "ASYA-5002"
    # 51 the store of big payloads
    BLOB = "ASYA-5101"
    BLOB_MISSING = "ASYA-5102"
    BLOB_UNAVAILABLE = "ASYA-5103"
    # 60 the gateway's refusals
    REFUSED = "ASYA-6001"
    BAD_REQUEST = "ASYA-6002"
    NOT_JSON = "ASYA-6003"
    FORBIDDEN_ORIGIN = "ASYA-6004"
    NOT_FOUND = "ASYA-6005"
    UNKNOWN_FLOW = "ASYA-6006"
    UNKNOWN_ENVELOPE = "ASYA-6007"
    METHOD_NOT_ALLOWED = "ASYA-6008"
    BODY_TIMEOUT = "ASYA-6009"
    ID_CONFLICT = "ASYA-6010"
    REQUEST_TOO_LARGE = "ASYA-6011"
    NOT_JSON_TYPE = "ASYA-6012"
    INVALID_REQUEST = "ASYA-6013"
    INVALID_PAYLOAD = "ASYA-6014"
    UNKNOWN_ROUTE = "ASYA-6015"
    QUEUE_FULL = "ASYA-6016"
    TOO_MANY_STREAMS = "ASYA-6017"
    UNAVAILABLE = "ASYA-6018"
    STORE_UNAVAILABLE = "ASYA-6019"
    DISK_FULL = "ASYA-6020"
    KEY_TAKEN = "ASYA-6021"
    KEY_REUSED = "ASYA-6022"
    UNKNOWN_SCHEDULE = "ASYA-6023"
    NOT_DEAD = "ASYA-6024"
    # 90 mistakes of ours
    INTERNAL = "ASYA-9001"
    GATEWAY_INTERNAL = "ASYA-9002"


REASONS: Final = {
    "ParseError": Code.PARSE_ERROR,
    "RouteMismatch": Code.ROUTE_MISMATCH,
    "UnknownActor": Code.UNKNOWN_ACTOR,
    "PolicyExhausted": Code.POLICY_EXHAUSTED,
    "PolicyRouted": Code.POLICY_ROUTED,
    "DeadlineExceeded": Code.DEADLINE_EXCEEDED,
    "HopLimit": Code.HOP_LIMIT,
    "PoisonMessage": Code.POISON_MESSAGE,
    "MessageTooLarge": Code.MESSAGE_TOO_LARGE,
    "BlobMissing": Code.BLOB_MISSING,
}
"""`status.reason` of an envelope that failed."""

TYPES: Final = {
    "asya.errors.ActorTimeout": Code.ACTOR_TIMEOUT,
    "asya.errors.PayloadTooLarge": Code.PAYLOAD_TOO_LARGE,
    "asya.errors.MessageTooLarge": Code.MESSAGE_TOO_LARGE,
    "asya.errors.ReplicaGone": Code.REPLICA_GONE,
    "asya.errors.BlobError": Code.BLOB,
    "asya.errors.BlobMissing": Code.BLOB_MISSING,
    "asya.errors.BlobUnavailable": Code.BLOB_UNAVAILABLE,
    "asya.runtime.typed.PayloadMismatch": Code.PAYLOAD_MISFIT,
    "asya.runtime.loading.HandlerError": Code.HANDLER_LOAD,
    "asya.runtime.loading.BadName": Code.HANDLER_NAME,
    "asya.runtime.loading.ModuleMissing": Code.HANDLER_MODULE,
    "asya.runtime.loading.ImportFailed": Code.HANDLER_IMPORT,
    "asya.runtime.loading.HandlerMissing": Code.HANDLER_MISSING,
    "asya.runtime.loading.BadSignature": Code.HANDLER_SIGNATURE,
    "asya.runtime.loading.ClassFailed": Code.HANDLER_CLASS,
}
"""`status.error.type`, where the error is one of ours. The runtime knows no codes."""

_GENERAL: Final = frozenset({None, "PolicyExhausted", "PolicyRouted", "Failed"})


def load_failure(error_type: str, message: str) -> tuple[Code, str]:
    """Code and text of a handler that could not be loaded.

    The runtime's own errors tell the whole story; their type would only repeat it.
    """
    own = error_type.startswith("asya.runtime.")
    text = message if own else f"{error_type}: {message}"
    return TYPES.get(error_type, Code.HANDLER_LOAD), text


def failure_code(reason: str | None, error_type: str | None) -> Code:
    """The code of a failed attempt or envelope.

    The reason says most, except where it only says that no attempt was left: then an error of
    ours says more.
    """
    own = TYPES.get(error_type or "")
    if own is not None and reason in _GENERAL:
        return own
    return REASONS.get(reason or "", Code.HANDLER_RAISED)
