"""Stores and the world outside: folders of depth files become stores, stores become folders or one HDF5 file."""

from tiekd_cache.transfer.export_folder import ExportReport, export_folder
from tiekd_cache.transfer.hdf5_export import export_hdf5
from tiekd_cache.transfer.hdf5_import import import_hdf5
from tiekd_cache.transfer.import_folder import ImportConfig, ImportReport, import_folder
from tiekd_cache.transfer.scale import Scale

__all__ = [
    "ExportReport",
    "ImportConfig",
    "ImportReport",
    "Scale",
    "export_folder",
    "export_hdf5",
    "import_folder",
    "import_hdf5",
]
