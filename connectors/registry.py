"""Every channel by name, as its connector declares it.

What enters: the names of schemas/records.py. What leaves: the ChannelDeclaration of each, the constant DECLARATION of
connectors/<name>/connector.py; a name without that file is an error at once. Looking a channel up opens nothing and needs no token.
"""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

from connectors.base import ChannelDeclaration, Connector
from schemas import records
from schemas.settings import Settings


def _declared(name: str) -> ChannelDeclaration:
    found: ChannelDeclaration = import_module(f"connectors.{name}.connector").DECLARATION
    return found


CHANNELS: Mapping[str, ChannelDeclaration] = MappingProxyType({name: _declared(name) for name in records.CHANNELS})


def connector(channel: str, settings: Settings) -> Connector:
    """The connector of a channel; raises KeyError for a channel that CHANNELS does not know."""
    return CHANNELS[channel].build(settings)
