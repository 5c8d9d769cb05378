"""The store: a teacher's responses in one folder, written by whole shards, read by frame id, verified to the bit."""

from tiekd_cache.store.image_writer import ImageWriter
from tiekd_cache.store.info import StoreInfo
from tiekd_cache.store.reader import ResponseStore, open_store
from tiekd_cache.store.schema import StoreSchema, frames_digest
from tiekd_cache.store.signing import SignReport, sign_store
from tiekd_cache.store.verify import VerifyReport, verify_store
from tiekd_cache.store.writer import StoreWriter

__all__ = [
    "ImageWriter",
    "ResponseStore",
    "SignReport",
    "StoreInfo",
    "StoreSchema",
    "StoreWriter",
    "VerifyReport",
    "frames_digest",
    "open_store",
    "sign_store",
    "verify_store",
]
