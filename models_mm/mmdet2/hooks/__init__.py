"""What a run does between its iterations."""

from models_mm.mmdet2.hooks.bad_images import BadImagesHook
from models_mm.mmdet2.hooks.checkpoint import ExactCheckpointHook, ResumeHook
from models_mm.mmdet2.hooks.finite_loss import FiniteLossHook

__all__ = ["BadImagesHook", "ExactCheckpointHook", "FiniteLossHook", "ResumeHook"]
