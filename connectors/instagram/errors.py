"""Every error code of the Instagram Messaging API with its class and the sentence for the operator. A subcode decides where one is listed.

https://developers.facebook.com/docs/messenger-platform/error-codes
https://developers.facebook.com/docs/graph-api/guides/error-handling
"""

from connectors.error_classes import configuration, permanent, throttle, transient
from connectors.meta_errors import GRAPH, Table
from schemas.opt_out_policies import NOT_RECEIVING
from schemas.outcomes import Scope

_WINDOW = permanent("more than 24 hours since the person last wrote: nothing may be sent until they write again")
_NOBODY = permanent(
    "Instagram knows no such person for this account: an id is valid only for the account the person wrote to"
)
_LIMIT = throttle(Scope.ACCOUNT, "the account reached a call limit of Instagram")

INSTAGRAM: Table = {
    **GRAPH,
    2: transient("Instagram is down or overloaded, or the person blocked the account", tries=5),
    (10, 2534022): _WINDOW,
    (10, 2018278): _WINDOW,  # the same with Messenger's number
    (10, 2018065): _WINDOW,
    33: permanent("Instagram does not know the object of the request, or the object accepts no messages"),
    (100, 33): permanent("Instagram does not know the object of the request, or the object accepts no messages"),
    (100, 2534014): _NOBODY,
    (100, 2018001): _NOBODY,
    (100, 2018047): transient(
        "Instagram could not fetch the medium: see whether its link opens without a login", tries=3
    ),
    (100, 2018074): permanent("Instagram has no medium of this id for the account: upload it again, or send its link"),
    (190, 458): configuration("the account removed our app: ask it to log in to the app again"),
    (190, 459): configuration("Instagram stopped the account for a check: log in at instagram.com and pass it"),
    (190, 460): configuration("the account's password changed, so the token ended: set a new one"),
    (190, 463): configuration("the access token expired: set a new one, and refresh it within its 60 days"),
    (190, 464): configuration("the account of the token is not confirmed: log in at instagram.com and confirm it"),
    (190, 467): configuration("the access token is invalid: set a valid one"),
    551: permanent(
        "the person is not available: they left, blocked the account or accept no messages from it",
        suppresses=NOT_RECEIVING,
    ),
    1200: transient("Instagram could not send the message for the moment"),
    36000: permanent("the image is too large for Instagram: at most 8 MB"),
    80002: _LIMIT,
    80006: _LIMIT,
}
