"""Big payloads: the blob store, and the claim check that stands for a payload in a message."""

from asya.blobs.base import BlobRef, BlobStore, Swept

__all__ = ["BlobRef", "BlobStore", "Swept"]
