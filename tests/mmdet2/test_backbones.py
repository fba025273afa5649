"""Backbones of this package and of its users in mmdet's registry."""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which needs it)

from mmdet.models import BACKBONES

from models_mm.backbones import REGISTRY, Backbone, register


def test_every_backbone_is_registered_with_mmdet():
    assert {name: BACKBONES.get(name) for name in REGISTRY} == REGISTRY


def test_a_backbone_that_is_registered_later(monkeypatch):
    """As a module that a config imports does."""
    monkeypatch.setattr(BACKBONES, "_module_dict", dict(BACKBONES.module_dict))

    @register("registered_later")
    class Own(Backbone):
        """A backbone of a user."""

    assert BACKBONES.get("registered_later") is Own
    del REGISTRY["registered_later"]
