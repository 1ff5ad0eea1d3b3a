"""Finds the recipients of a message: each as an address on a channel, with the account to send with.

In: a message, the members of its conversation, and the known contacts. Out: references of deliveries; or RecipientRefused, which is
final; or NotKnownYet, if a contact may have been produced that has not arrived here. Guaranteed: a tenant sends only with accounts that
it may use; the same message to the same recipient is the same delivery, however often it is decided. No I/O.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from pipelines.engine.stage import View
from schemas import ids
from schemas.accounts import Accounts
from schemas.keys import DEFAULT_TENANT, contact_key
from schemas.outcomes import Rejected
from schemas.records import Contact, Delivery, DeliveryRef, Direction, Message, Recipient
from tables.conversations import Members

Check = Callable[[Delivery], Rejected | None]


class RecipientRefused(Exception):
    """A record is not accepted: `cause` is a code of schemas/causes.py, the text a sentence, `tenant_id` its tenant once that is known."""

    def __init__(self, cause: str, detail: str, tenant_id: str = DEFAULT_TENANT) -> None:
        super().__init__(detail)
        self.cause = cause
        self.tenant_id = tenant_id


class NotKnownYet(Exception):
    """No known contact says how to reach a recipient, but one may have been produced before the message."""


class Reachable(NamedTuple):
    """A channel as route needs it: our configured account, and a check whether the channel can ever take a delivery."""

    account: str
    check: Check


class People(NamedTuple):
    """Contacts by contact_key. With `certain`, they include everything that was produced before the message arrived."""

    contacts: View[Contact]
    certain: bool = False


class Recipients:
    """`channels` are the configured channels by name; `accounts` maps accounts to tenants."""

    def __init__(self, channels: Mapping[str, Reachable], accounts: Accounts) -> None:
        self._channels = channels
        self._accounts = accounts

    def of(self, message: Message, members: Members | None, people: People) -> list[DeliveryRef]:
        """One reference per recipient; none for an inbound message. Raises RecipientRefused, or NotKnownYet without `people.certain`."""
        if message.direction is Direction.INBOUND:
            return []
        recipients = message.recipients
        if not recipients:
            if members is None or not members.user_ids:
                raise RecipientRefused(
                    "no_recipient",
                    f"no recipient is given and conversation {message.conversation_id!r} has no members: name recipients, or produce the "
                    "conversation to topic conversations first",
                )
            recipients = tuple(Recipient(user_id=user_id) for user_id in members.user_ids)
        found = {ref.delivery_id: ref for ref in (self._ref(message, recipient, people) for recipient in recipients)}
        return list(found.values())

    def _ref(self, message: Message, recipient: Recipient, people: People) -> DeliveryRef:
        name, address, account = recipient.channel, recipient.address, recipient.account
        if not address:
            name, address, account = self._look_up(message.tenant_id, recipient, people)
        channel = self._channels.get(name or "")
        if name is None or channel is None:
            raise RecipientRefused(
                "unknown_channel", f"channel {name!r} is not configured: use one of {', '.join(sorted(self._channels))}"
            )
        who = recipient.user_id or address
        return DeliveryRef(
            delivery_id=ids.delivery_id(
                message.tenant_id, message.conversation_id, message.message_id, who, name, address
            ),
            channel=name,
            account=self._account(message.tenant_id, name, account, channel.account),
            recipient=who,
            address=address,
        )

    def _account(self, tenant_id: str, channel: str, wanted: str | None, shared: str) -> str:
        """The account to send with: the wanted one if the tenant may use it; without a wish, the tenant's own or the shared one."""
        if not wanted:
            found = self._accounts.account_for(tenant_id, channel, shared)
            if found is None:
                raise RecipientRefused(
                    "account_not_yours",
                    f"tenant {tenant_id} has no account on {channel}, and the configured one belongs to another tenant: list one in "
                    "CHAT4ALL_ACCOUNTS",
                )
            return found
        if not self._accounts.may_use(tenant_id, channel, wanted, shared):
            raise RecipientRefused(
                "account_not_yours",
                f"account {wanted[:40]!r} on {channel} is not an account of tenant {tenant_id}: omit it, or list it in CHAT4ALL_ACCOUNTS",
            )
        return wanted

    def _look_up(self, tenant_id: str, recipient: Recipient, people: People) -> tuple[str, str, str | None]:
        """(channel, address, account) of a user id: on the wanted channel, else on the contact's preferred one."""
        if not recipient.user_id:
            raise RecipientRefused("no_recipient", "a recipient has neither an address nor a user id: give one of them")
        contact = people.contacts.get(contact_key(tenant_id, recipient.user_id).encode())
        if contact is not None:
            for option in contact.addresses:
                wanted = option.channel == recipient.channel if recipient.channel else option.channel in self._channels
                if wanted and option.channel not in contact.opt_outs:
                    return option.channel, option.address, option.account
        if not people.certain:
            raise NotKnownYet
        if contact is None:
            raise RecipientRefused(
                "unknown_user", f"user id {recipient.user_id!r} is in no contact: produce it to topic contacts first"
            )
        raise RecipientRefused(
            "unreachable_user",
            f"user id {recipient.user_id!r} has no address on {recipient.channel or 'any configured channel'}",
        )
