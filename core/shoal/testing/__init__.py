"""Fakes that ship with shoal and keep the contracts of what they stand for. Imported by tests only."""

from shoal.testing.power_cut import PowerCutDisk, RecordingFiles, scratch_root
from shoal.testing.power_cut_images import Image, build_image, images
from shoal.testing.write_log import WriteLog

__all__ = [
    "Image",
    "PowerCutDisk",
    "RecordingFiles",
    "WriteLog",
    "build_image",
    "images",
    "scratch_root",
]
