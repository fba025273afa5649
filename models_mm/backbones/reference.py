"""The reference projects' own keywords, so that their configs build here unchanged.

Each project describes a variant by its own keywords, most of which have one value in all published
configs. Keywords that name a published variant select it; those with an effect must have the
published value; whatever else is refused by name, as any unknown keyword is.
"""

import inspect
import logging
from collections.abc import Collection, Mapping
from functools import wraps

LOGGER = logging.getLogger("models_mm")
# What a config hands on that inherits mmdet's ResNet detector without ``_delete_=True``.
RESNET = ("depth", "num_stages", "style")
# Keywords that then are the ResNet's too, unless the published configs set them for the backbone.
SHARED_WITH_RESNET = ("frozen_stages", "norm_cfg", "norm_eval")
WEIGHTS = ("pretrained", "init_cfg")


def check_published(
    family: str, settings: dict, published: Mapping, without_effect: Collection[str]
) -> None:
    """Refuse keywords of a reference with another value than its published configs have.

    Args:
        family: for the messages.
        settings: keywords of a config.
        published: those with an effect, and their published values.
        without_effect: those that any value is accepted of.

    Raises:
        TypeError: no keyword of the reference.
        ValueError: another value than the published one.
    """
    for keyword, value in settings.items():
        if keyword in without_effect:
            continue
        if keyword not in published:
            raise TypeError(f"{family} got an unexpected keyword argument {keyword!r}")
        if _plain(value) != _plain(published[keyword]):
            raise ValueError(
                f"{keyword}={value!r} is not supported: all published {family} detectors have "
                f"{published[keyword]!r}"
            )


def variant_of(family: str, arch: str | dict | None, naming: dict, variants: dict, named: dict):
    """The variant that ``arch`` or the reference's own keywords name.

    Args:
        family: for the messages.
        arch: a variant's name, the fields of one, or None: what ``naming`` says, else the first.
        naming: those of a config's keywords that describe a variant.
        variants: the published ones by name.
        named: the keywords that describe each of them, by name.

    Raises:
        TypeError: both name one.
        ValueError: there is no such variant.
    """
    if arch is None:
        for name, keywords in named.items():
            if all(_plain(keywords[key]) == _plain(value) for key, value in naming.items()):
                return variants[name]
        found = ", ".join(f"{key}={value}" for key, value in naming.items())
        raise ValueError(f"no published {family} detector has {found}")
    if naming:
        raise TypeError(f"arch sets the variant already; remove {', '.join(naming)}")
    if isinstance(arch, dict):
        return type(next(iter(variants.values())))(**arch)
    if arch not in variants:
        raise ValueError(f"arch must be one of {', '.join(variants)}, got {arch!r}")
    return variants[arch]


def ignoring_resnet(*own: str, **instead):
    """Let a backbone's ``__init__`` drop what its config inherited from mmdet's ResNet.

    The reference swallowed these keywords; to give them their meaning here would train something
    else. A warning names them.

    Args:
        own: those of the ResNet's keywords that the published configs set for this backbone.
        instead: what the published detectors had in the place of others.
    """
    marks = [key for key in RESNET if key not in own]
    shared = [key for key in SHARED_WITH_RESNET if key not in own]

    def decorate(init):
        @wraps(init)
        def adapted(self, *args, **settings):
            inherited = [key for key in marks if key in settings]
            if inherited:
                inherited += [key for key in shared if key in settings]
                inherited += [key for key in WEIGHTS if "torchvision://" in str(settings.get(key))]
                choice = (
                    f" As published: {_named(instead, instead)}. "
                    "Say _delete_=True in the backbone to choose."
                )
                LOGGER.warning(
                    f"{type(self).__name__} ignores what its config inherits from a ResNet, as the "
                    f"reference did: {_named(settings, inherited)}.{choice if instead else ''}"
                )
                settings = {key: settings[key] for key in settings if key not in inherited}
                settings = {**instead, **settings}
            init(self, *args, **settings)

        # whoever checks a config by the signature is to see that these are taken
        adapted.__signature__ = _with_keywords(inspect.signature(init), [*marks, *shared])
        return adapted

    return decorate


def _with_keywords(signature: inspect.Signature, names: Collection[str]) -> inspect.Signature:
    """A signature with further optional keywords, unless it has them."""
    parameters = list(signature.parameters.values())
    rest = [p for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD]
    parameters = [p for p in parameters if p not in rest]
    for name in names:
        if name not in signature.parameters:
            parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None))
    return signature.replace(parameters=[*parameters, *rest])


def _named(settings: Mapping, keys: Collection[str]) -> str:
    return ", ".join(f"{key}={settings[key]!r}" for key in keys)


def _plain(value):
    return list(value) if isinstance(value, (tuple, list)) else value
