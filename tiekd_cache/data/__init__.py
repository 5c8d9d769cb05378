"""Frames and what is done to them: KITTI on disk, made-up streets, crops and augmentation, network input."""
