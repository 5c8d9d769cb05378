"""Sharing stores: whole shards from one place to another, checked on both ends; push, pull and merge."""

from tiekd_cache.sharing.copying import ShareReport, copy_store, merge_stores
from tiekd_cache.sharing.frame_choice import read_frame_choice

__all__ = ["ShareReport", "copy_store", "merge_stores", "read_frame_choice"]
