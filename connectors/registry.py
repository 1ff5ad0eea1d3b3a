"""The registry of channels: the declaration of each channel by its name.

What enters: the names in schemas/records.py. What leaves: the ChannelDeclaration of each, which is the constant DECLARATION of
connectors/<name>/connector.py. A name without that module is an ImportError when this module is imported. Importing opens no connection and
needs no token.
"""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

from connectors.base import ChannelDeclaration, Connector, Observed
from schemas import records
from schemas.settings import Settings


def _declared(name: str) -> ChannelDeclaration:
    found: ChannelDeclaration = import_module(f"connectors.{name}.connector").DECLARATION
    return found


CHANNELS: Mapping[str, ChannelDeclaration] = MappingProxyType({name: _declared(name) for name in records.CHANNELS})

OBSERVED: Mapping[str, Observed] = MappingProxyType(
    {name: channel.capabilities.observed for name, channel in CHANNELS.items()}
)


def connector(channel: str, settings: Settings) -> Connector:
    """Builds the connector of a channel, without I/O. Raises KeyError for a channel that is not in CHANNELS."""
    return CHANNELS[channel].build(settings)
