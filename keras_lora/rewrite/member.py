"""What an adapted base's layers know of it, kept through Keras's own saving.

A layer of the base that holds weights or sublayers, or that `train` names,
becomes a *member*: its class is changed in place to a subclass that keeps its
own weights from training and describes itself as "the plain layer, and this
adapter on it". A root alone cannot do this: it is gone once the base is
flattened into a bigger model, and a composite layer's config knows nothing of
its sublayers.
"""

import functools
from dataclasses import asdict
from typing import Any

import keras

from keras_lora.errors import raise_if
from keras_lora.methods import METHODS
from keras_lora.methods.host import AdapterHost
from keras_lora.methods.method import Settings
from keras_lora.model import surgery
from keras_lora.model.classes import class_on, registered
from keras_lora.model.fingerprint import digests_of
from keras_lora.model.paths import Layers, join, own_variables, structural_paths
from keras_lora.model.surgery import Layer
from keras_lora.rewrite.membership import (
    Base,
    Flags,
    Membership,
    member_of,
    membership,
)
from keras_lora.rewrite.presets import guard_presets


class Member:
    """Mixin: a layer of an adapted base describes itself with its adapter."""

    _host_class: type

    def get_config(self) -> dict[str, Any]:
        """The plain layer, and what to attach at and below it."""
        raise_if_off(self, "saved")
        mine = member_of(self)
        below = {
            rel: layer
            for rel, layer in structural_paths(self).items()
            if membership(layer) is not None
        }
        return {
            "host": plain_config(self),
            "record": {
                "base": asdict(mine.base),
                "path": mine.path,
                "settings": {
                    rel: layer.adapter_settings
                    for rel, layer in below.items()
                    if is_host(layer)
                },
            },
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Layer:
        """Builds the plain layer and attaches what the record says."""
        layer = keras.saving.deserialize_keras_object(config["host"])
        record = config["record"]
        base = Base(**record["base"])
        rejoin(layer, base, record["path"], record["settings"])
        return layer

    def __reduce__(self) -> Any:
        """Pickles as Keras does, by way of a function that can be found.

        Keras names the class, and the one of that name is the host's.
        """
        return surgery.unpickled, super().__reduce__()[1]

    def save_own_variables(self, store: Any) -> None:
        """Stores values, unless what is there stands in for them."""
        raise_if_off(self, "saved")
        super().save_own_variables(store)  # type: ignore[misc]

    def load_own_variables(self, store: Any) -> None:
        """Loads values, which then are the base's."""
        raise_if_off(self, "loaded")
        super().load_own_variables(store)  # type: ignore[misc]
        mine = member_of(self)
        if mine.path not in mine.base.trained:
            mine.digests = digests_of({"": self}, mine.base.sampled)


def raise_if_off(layer: Layer, what: str) -> None:
    """Raises where `disabled` has put a member's values aside."""
    off = member_of(layer).off_depth
    raise_if(
        f"Layer {layer.name!r} was not {what}",
        ["the adapter is switched off by `disabled`"] if off else [],
    )


def is_host(layer: Layer) -> bool:
    """Whether a layer carries adapter weights that `inject` put there."""
    return (
        isinstance(layer, Member)
        and isinstance(layer, AdapterHost)
        and bool(layer.adapter_weights)
    )


def member_class(host: Any, mixin: Any) -> Any:
    """The one class of members whose own class is `host`."""
    mixins = (Member, mixin) if mixin else (Member,)
    return registered(class_on(host, *mixins), "Member", ANY_MEMBER)


ANY_MEMBER = class_on(keras.layers.Layer, Member, AdapterHost)
registered(ANY_MEMBER, "Member", ANY_MEMBER)


def host_class(layer: Layer, settings: Settings | None) -> Any:
    """The mixin that gives a layer the adapter that `settings` describe."""
    if settings is None:
        return AdapterHost
    found = METHODS[settings["method"]].layer(layer)
    assert found is not None
    return found


def preview(layer: Layer, settings: Settings) -> Any:
    """The layer as the host it would be; nothing is changed."""
    cls = member_class(type(layer), host_class(layer, settings))
    return surgery.view(layer, cls)


def rejoin(
    root: Layer, base: Base, path: str, settings: dict[str, Settings]
) -> None:
    """Makes members of a plain layer from a config, and of all below it."""
    if not root.built:
        surgery.when_built(root, lambda: rejoin(root, base, path, settings))
        return
    guard_presets()
    layers = structural_paths(root)
    raise_if(
        f"The adapter of {root.name!r} was not restored",
        [
            f"{join(path, rel)}: not among the layers that the config of "
            f"{type(root).__name__} gives back"
            for rel in settings
            if rel not in layers
        ],
    )
    flags = flags_of(layers)
    for rel, layer in layers.items():
        act = functools.partial(
            attach_layer,
            layer,
            base,
            join(path, rel),
            settings.get(rel),
            flags[rel] if layer.built else None,
        )
        if layer.built:
            act()
        else:
            surgery.when_built(layer, act)


def flags_of(layers: Layers) -> dict[str, Flags]:
    """Which of their own variables train, by path.

    Two layers may have one variable: the flags of all are taken before the
    first is frozen.
    """
    return {
        path: [(v, v.trainable) for v in own_variables(layer).values()]
        for path, layer in layers.items()
    }


def attach_layer(
    layer: Layer,
    base: Base,
    path: str,
    settings: Settings | None = None,
    flags: Flags | None = None,
) -> None:
    """Makes one built layer a member, unless it is one already.

    `flags` are those of its own variables; None where they are as they were.
    """
    if membership(layer) is not None:
        return
    layer.__dict__["_keras_lora"] = mine = Membership(
        base=base,
        path=path,
        flag=surgery.trainable_flag(layer),
        variable_flags=flags_of({path: layer})[path]
        if flags is None
        else flags,
    )
    if path in base.trained:
        surgery.set_trainable_flag(layer, True)
        for variable in surgery.trainable_kind(layer):
            variable.trainable = True
        surgery.set_class(layer, member_class(type(layer), None))
        return
    surgery.set_trainable_flag(layer, True)
    makes_output = path in dict(base.outputs or ())
    bare = not (mine.variable_flags or surgery.children(layer) or makes_output)
    if settings is None and (bare or surgery.is_container(layer)):
        return
    mixin = host_class(layer, settings)
    surgery.set_class(layer, member_class(type(layer), mixin))
    layer.freeze()
    if not layer.built:
        surgery.when_built(layer, lambda: freeze_later(layer))
    if settings is not None:
        layer.attach(settings)


def freeze_later(layer: Layer) -> None:
    """Freezes what a member made when it was built, unless it is plain."""
    if isinstance(layer, AdapterHost):
        layer.freeze()


def detach_layer(layer: Layer) -> None:
    """Makes one member the plain layer it was; its values stay."""
    mine = member_of(layer)
    if isinstance(layer, AdapterHost):
        layer.detach()
    if isinstance(layer, Member):
        surgery.set_class(layer, type(layer)._host_class)
    for variable, flag in mine.variable_flags:
        variable.trainable = flag
    surgery.set_trainable_flag(layer, mine.flag)
    del layer.__dict__["_keras_lora"]


def plain_config(layer: Layer) -> dict[str, Any]:
    """The serialized layer as it would be with no adapter.

    The view that is serialized lives as long as the layer: Keras tells
    shared layers by their address while it writes a config.
    """
    mine = member_of(layer)
    host = type(layer)._host_class
    overrides = {
        **surgery.without(
            layer, getattr(layer, "adapter_weights", {}).values()
        ),
        surgery.FLAG: mine.flag,
        "compiled": False,
    }
    mine.plain = surgery.view(layer, host, mine.plain, **overrides)
    config: dict[str, Any] = keras.saving.serialize_keras_object(mine.plain)
    return config
