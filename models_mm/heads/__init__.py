"""Heads that MMDetection has no option for, registered in its ``HEADS`` on import."""

from .retina_head import Detectron2RetinaHead

__all__ = ["Detectron2RetinaHead"]
