"""Every error code of the WhatsApp Cloud API with its class and the sentence for the operator.

https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes
"""

from connectors.error_classes import configuration, hold, permanent, throttle, transient
from connectors.meta_errors import GRAPH, Table
from schemas.opt_out_policies import NOT_RECEIVING, USER_PREFERENCES
from schemas.outcomes import Scope

_REGISTRATION = "the business number is not registered correctly: register it again with its PIN"
_TEMPLATE = "the message template does not match what Meta approved"

WHATSAPP: Table = {
    **GRAPH,
    33: permanent("the business number of this delivery was deleted at Meta"),
    80007: throttle(Scope.ACCOUNT, "the WhatsApp business account reached its call limit"),
    130429: throttle(Scope.ACCOUNT, "the business number reached its throughput limit"),
    130472: permanent("the recipient is in one of Meta's experiments and does not get such messages"),
    130497: permanent("the business may not message people in the recipient's country"),
    131000: transient("WhatsApp reports that something went wrong on its side", tries=5),
    131005: configuration("access denied: grant the token the permission whatsapp_business_messaging"),
    131008: permanent("a required parameter of the request is missing"),
    131009: permanent("WhatsApp finds the value of a parameter invalid"),
    131016: transient("WhatsApp's service is temporarily unavailable"),
    131021: permanent("the recipient is the sending business number"),
    131026: permanent(
        "undeliverable: the recipient is not on WhatsApp, blocked us or uses a client that is too old",
        suppresses=NOT_RECEIVING,
    ),
    131030: permanent("the recipient is not on the test number's list of allowed recipients"),
    131031: configuration("the WhatsApp business account is locked: see its page at Meta"),
    131037: configuration("the business number has no approved display name"),
    131042: configuration("the business account has a problem with its payment method"),
    131045: configuration("the certificate or registration of the business number is broken: register it again"),
    131047: permanent("more than 24 hours since the recipient last wrote: only a template may be sent"),
    131048: hold("WhatsApp slowed the number down because people blocked or reported it", throttled=True, tries=5),
    131049: permanent(
        "WhatsApp withheld the message to limit marketing to the recipient: try again after 24 hours at the earliest"
    ),
    131050: permanent("the recipient opted out of marketing messages", suppresses=USER_PREFERENCES),
    131051: permanent("WhatsApp does not support this type of message"),
    131052: permanent("WhatsApp could not download the media a person sent"),
    131053: transient("WhatsApp could not fetch the media: check that the link opens without a login", tries=3),
    131056: throttle(Scope.PAIR, "too many messages to this recipient in a short time"),
    131057: transient("the WhatsApp account is in maintenance", Scope.ACCOUNT),
    131062: permanent("WhatsApp does not accept this kind of user id for this message"),
    131064: hold("the account reached its limit for this class of templates", throttled=True),
    132000: permanent(f"{_TEMPLATE}: the number of parameters differs"),
    132001: permanent(f"{_TEMPLATE}: no template of this name and language"),
    132005: permanent(f"{_TEMPLATE}: the text with its parameters is too long"),
    132007: permanent(f"{_TEMPLATE}: its content breaks a policy"),
    132008: permanent(f"{_TEMPLATE}: the format of a parameter differs"),
    132012: permanent(f"{_TEMPLATE}: the format of a parameter differs"),
    132015: permanent("the message template is paused for low quality: improve it at Meta"),
    132016: permanent("the message template is disabled for low quality: make another one"),
    132068: permanent("the flow of the message is blocked: correct it at Meta"),
    132069: throttle(Scope.ACCOUNT, "the flow of the message is throttled"),
    **dict.fromkeys((*range(133000, 133011), 133015, 133016), configuration(_REGISTRATION)),
    133004: transient("WhatsApp's server is temporarily unavailable"),
    133010: configuration("the business number is not registered with the Cloud API: register it"),
    133016: configuration("the business number was registered too often: wait 72 hours, then register it again"),
    134011: permanent("the terms of payments were not accepted"),
    135000: permanent("WhatsApp refuses the request without a reason"),
    137000: permanent("the recipient's identity key changed"),
}
