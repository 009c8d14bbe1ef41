"""Models by name, pictures, and weights: ``fogconv.zoo.load("resnet50")``, ``fogconv.zoo.names()``.

Heavy modules are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fogconv.zoo.models import ZooModel as ZooModel
    from fogconv.zoo.models import load_model as load
    from fogconv.zoo.models import model_names as names
    from fogconv.zoo.preprocessing import load_image as picture

__all__ = ["ZooModel", "load", "names", "picture"]

_HOME = {
    "ZooModel": ("models", "ZooModel"),
    "load": ("models", "load_model"),
    "names": ("models", "model_names"),
    "picture": ("preprocessing", "load_image"),
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'fogconv.zoo' has no attribute {name!r}")
    module, attribute = _HOME[name]
    return getattr(import_module(f"fogconv.zoo.{module}"), attribute)
