"""Google's libraries: what is imported of them, the credentials, the channel and its calls.

Rules of this file: it is the only one that imports them, and does so when it connects. It takes
the channel, the credentials and the messages of the generated asyncio clients, and calls by the
plain protobuf messages inside of them: their wrappers cost more than the call.

Called by `asya.transports.pubsub.connection`.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import re
from typing import Any, Final

from asya.codes import Code
from asya.errors import TransportUnavailable, how_to_install

# gRPC would run handlers of its own in whoever forks, of which the child dies by SIGSEGV now and
# then. It reads this when it is imported, after this file; our children are given an environment.
os.putenv("GRPC_ENABLE_FORK_SUPPORT", "0")

HOST: Final = "pubsub.googleapis.com:443"
INTERNALS: Final = {
    "google.pubsub_v1.services.publisher.transports:PublisherGrpcAsyncIOTransport": (
        "create_channel",
    ),
    "google.pubsub_v1.types:PublishRequest": ("pb",),
    "grpc.aio:Channel": ("unary_unary",),
}
"""Parts of the generated clients that are meant for themselves: their channels and plain messages."""
SCOPE: Final = "https://www.googleapis.com/auth/pubsub"
CALLS: Final = {
    "CreateTopic": ("Publisher", "Topic", "Topic"),
    "GetTopic": ("Publisher", "GetTopicRequest", "Topic"),
    "DeleteTopic": ("Publisher", "DeleteTopicRequest", None),
    "Publish": ("Publisher", "PublishRequest", "PublishResponse"),
    "CreateSubscription": ("Subscriber", "Subscription", "Subscription"),
    "GetSubscription": ("Subscriber", "GetSubscriptionRequest", "Subscription"),
    "ListSubscriptions": ("Subscriber", "ListSubscriptionsRequest", "ListSubscriptionsResponse"),
    "DeleteSubscription": ("Subscriber", "DeleteSubscriptionRequest", None),
    "Pull": ("Subscriber", "PullRequest", "PullResponse"),
    "Acknowledge": ("Subscriber", "AcknowledgeRequest", None),
    "ModifyAckDeadline": ("Subscriber", "ModifyAckDeadlineRequest", None),
}
"""All calls that are made: service, request, answer."""

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection
)


class Library:
    """What a connection needs of Google's libraries.

    Attributes:
        rpc_error: What a call raises; known after `load`.
    """

    rpc_error: Any
    _types: Any

    def __init__(self, where: str, endpoint: str) -> None:
        self._where = where
        self._endpoint = endpoint
        self._is_plain = bool(endpoint) and not endpoint.endswith(":443")
        self._credentials: Any = None
        self._requests: dict[str, Any] = {}

    def request(self, name: str, fields: dict[str, Any]) -> Any:
        """A request by the name of its call, as a plain protobuf message."""
        return self._requests[name](**fields)

    async def load(self) -> None:
        """Import what is needed, and find the credentials.

        Raises:
            TransportUnavailable: A library or the credentials are missing.
        """
        try:
            # the import takes half a second, which the loop can use
            await asyncio.to_thread(_import_libraries)
        except ImportError as error:
            raise TransportUnavailable(
                f"Pub/Sub needs a library that is not installed ({error.name}); "
                f"{how_to_install('pubsub')} brings it",
                code=Code.EXTRA_MISSING,
            ) from error
        import google.auth
        import google.auth.exceptions
        import grpc
        from google.pubsub_v1 import types

        self.rpc_error = grpc.aio.AioRpcError
        self._types = types
        self._requests = {
            name: getattr(types, request).pb() for name, (_, request, _) in CALLS.items()
        }
        if self._is_plain:
            return
        try:
            self._credentials, _ = await asyncio.to_thread(google.auth.default, scopes=[SCOPE])
        except google.auth.exceptions.GoogleAuthError as error:
            raise TransportUnavailable(
                f"no credentials for Pub/Sub in {self._where}: {one_line(str(error))}"
            ) from error

    def open_channel(self) -> tuple[Any, dict[str, Any]]:
        """A new channel, and its calls by their names."""
        import grpc
        from google.protobuf.empty_pb2 import Empty

        if self._is_plain:
            channel: Any = grpc.aio.insecure_channel(self._endpoint, options=_OPTIONS)
        else:
            from google.pubsub_v1.services.publisher.transports import (
                PublisherGrpcAsyncIOTransport,
            )

            channel = PublisherGrpcAsyncIOTransport.create_channel(
                self._endpoint or HOST,
                credentials=self._credentials,
                scopes=[SCOPE],
                options=_OPTIONS,
            )
        calls = {
            name: channel.unary_unary(
                f"/google.pubsub.v1.{service}/{name}",
                request_serializer=self._requests[name].SerializeToString,
                response_deserializer=(
                    getattr(self._types, answer).pb() if answer else Empty
                ).FromString,
            )
            for name, (service, _, answer) in CALLS.items()
        }
        return channel, calls


def _import_libraries() -> None:
    # what takes long; the names are bound where they are used
    for name in ("grpc.aio", "google.auth.exceptions", "google.pubsub_v1"):
        importlib.import_module(name)


def one_line(text: str) -> str:
    """One line for people of what gRPC tells."""
    text = re.sub(r"\s+", " ", text).strip()
    _, mark, last = text.partition("last error: ")
    text = re.sub(r"^UNKNOWN: (ipv[46]:\S+: )?", "", last if mark else text)
    return text[:200] or "no reason was given"
