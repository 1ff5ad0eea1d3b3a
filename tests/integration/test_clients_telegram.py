"""aiogram, python-telegram-bot and pyTelegramBotAPI, unmodified, against the Telegram simulator.

Each gets the base URL by its own means; what it sends and how it reads answers, errors and updates is its own code.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiogram
import pytest
import telebot
import telegram.error
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import (
    ClientDecodeError,
    RestartingTelegram,
    TelegramAPIError,
    TelegramBadRequest,
    TelegramConflictError,
    TelegramForbiddenError,
    TelegramMigrateToChat,
    TelegramNetworkError,
    TelegramNotFound,
    TelegramRetryAfter,
    TelegramServerError,
    TelegramUnauthorizedError,
)
from aiogram.types import (
    BufferedInputFile,
    InputMediaDocument,
    InputMediaPhoto,
    InputMediaVideo,
    ReactionTypeEmoji,
    ReplyParameters,
)
from telebot import asyncio_helper
from telebot.async_telebot import AsyncTeleBot
from telegram.ext import (
    AIORateLimiter,
    Application,
    ApplicationBuilder,
    MessageHandler,
    MessageReactionHandler,
    filters,
)

from simulators.provider_limits import ProviderLimits
from tests.support.running_simulators import BOT_TOKEN, Rig, eventually, rig

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20
MP4 = b"\x00\x00\x00\x18ftypmp42" + b"\0" * 20
LINK = "https://example.org/a"
EVERY_KIND = [
    "text",
    "image",
    "document",
    "video",
    "audio",
    "audio",
    "video",
    "sticker",
    "location",
    "location",
    "contact",
    "album",
]
SLOW_CHAT = ProviderLimits().changed({"bot_per_second": 0, "chat_burst": 1, "chat_per_second": 1})


async def _sent(at: Rig) -> list[dict[str, Any]]:
    return [line for line in await at.log() if line.get("provider_message_id") and "verdict" in line]


async def _make_unreachable(at: Rig) -> None:
    await at.control("/_control/people", chat_id=6, state="blocked")
    await at.control("/_control/people", chat_id=7, state="not_found")
    await at.control("/_control/people", chat_id=-8, state="migrated", migrate_to=-1001234567890)


# --- aiogram ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _aiogram(**options: Any) -> AsyncIterator[tuple[aiogram.Bot, Rig]]:
    async with rig("telegram", is_local=True, **options) as at:
        bot = aiogram.Bot(BOT_TOKEN, session=AiohttpSession(api=TelegramAPIServer.from_base(at.url)))
        try:
            yield bot, at
        finally:
            await bot.session.close()


async def test_aiogram_sends_every_kind() -> None:
    async with _aiogram() as (bot, at):
        assert (await bot.get_me()).username == "demo_bot"
        first = await bot.send_message(5, "[m-1] <b>olá</b>", parse_mode="HTML")
        photo = await bot.send_photo(5, BufferedInputFile(PNG, "a.png"), caption="[m-2] x")
        await bot.send_document(5, LINK + ".pdf", reply_parameters=ReplyParameters(message_id=first.message_id))
        await bot.send_video(5, BufferedInputFile(MP4, "a.mp4"))
        await bot.send_audio(5, LINK + ".mp3")
        await bot.send_voice(5, LINK + ".ogg")
        await bot.send_animation(5, LINK + ".gif")
        await bot.send_sticker(5, LINK + ".webp")
        await bot.send_location(5, -23.5, -46.6)
        await bot.send_venue(5, 1, 1, "x", "y")
        await bot.send_contact(5, "1", "Ana")
        album = await bot.send_media_group(
            5,
            [
                InputMediaPhoto(media=BufferedInputFile(PNG, "b.png"), caption="[m-3] x"),
                InputMediaVideo(media=LINK + ".mp4"),
            ],
        )
        await bot.send_chat_action(5, "typing")
        await bot.set_message_reaction(5, first.message_id, [ReactionTypeEmoji(emoji="👍")])
        assert photo.photo
        file = await bot.get_file(photo.photo[-1].file_id)
        content = await bot.download_file(file.file_path or "")
        again = await bot.send_photo(-5, photo.photo[-1].file_id)
        sent = await _sent(at)
    assert (first.text, first.entities and first.entities[0].type) == ("[m-1] olá", "bold")
    assert content is not None
    assert content.read() == PNG
    assert again.chat.type == "group"
    assert len({message.media_group_id for message in album}) == 1
    assert [line["kind"] for line in sent] == [*EVERY_KIND, "image"]
    assert [line["text_key"] for line in sent if line["text_key"]] == ["m-1", "m-2", "m-3"]


async def test_aiogram_recognises_every_error() -> None:
    async with _aiogram() as (bot, at):
        await _make_unreachable(at)
        refusals: list[tuple[int, str, type[TelegramAPIError]]] = [
            (6, "x", TelegramForbiddenError),
            (7, "x", TelegramBadRequest),
            (5, " ", TelegramBadRequest),
            (-8, "x", TelegramMigrateToChat),
        ]
        for chat, text, kind in refusals:
            with pytest.raises(kind) as refused:
                await bot.send_message(chat, text)
            if isinstance(refused.value, TelegramMigrateToChat):
                assert refused.value.migrate_to_chat_id == -1001234567890
        with pytest.raises(TelegramBadRequest, match="can't parse entities"):
            await bot.send_message(5, "<b>x", parse_mode="HTML")
        with pytest.raises(TelegramBadRequest, match="can't be mixed"):
            await bot.send_media_group(5, [InputMediaPhoto(media=LINK), InputMediaDocument(media=LINK)])
        with pytest.raises(TelegramConflictError):
            await bot.get_updates()
        for knob, fault in (
            ("fault_rate", RestartingTelegram),
            ("error_rate", ClientDecodeError),
            ("throttle_rate", TelegramRetryAfter),
        ):
            await at.control("/_control/faults", **{knob: 1.0})
            with pytest.raises(fault):
                await bot.send_message(5, "x")
            await at.control("/_control/faults", **{knob: 0.0})
        for status, kind in ((401, TelegramUnauthorizedError), (404, TelegramNotFound), (500, TelegramServerError)):
            await at.control("/_control/account", status=status, description="x")
            with pytest.raises(kind):
                await bot.get_me()
        await at.control("/_control/account")
        await at.control("/_control/faults", hang_rate=1.0)
        with pytest.raises(TelegramNetworkError):
            await bot.send_message(5, "x", request_timeout=1)


async def test_aiogram_waits_for_retry_after() -> None:
    async with _aiogram(limits=SLOW_CHAT) as (bot, at):
        await bot.send_message(5, "1")
        with pytest.raises(TelegramRetryAfter) as too_fast:
            await bot.send_message(5, "2")
        assert too_fast.value.retry_after == 1
        await at.advance_clock(too_fast.value.retry_after)
        assert (await bot.send_message(5, "2")).message_id == 2


async def test_aiogram_polls_and_reads_webhooks() -> None:
    seen: list[tuple[str, str | None]] = []
    dispatcher = aiogram.Dispatcher()

    async def on_message(message: aiogram.types.Message) -> None:
        seen.append(("message", message.text))

    async def on_button(query: aiogram.types.CallbackQuery) -> None:
        seen.append(("button", query.data))

    async def on_reaction(reaction: aiogram.types.MessageReactionUpdated) -> None:
        seen.append(("reaction", str(reaction.message_id)))

    async def on_member(member: aiogram.types.ChatMemberUpdated) -> None:
        seen.append(("member", member.new_chat_member.status))

    dispatcher.message.register(on_message)
    dispatcher.callback_query.register(on_button)
    dispatcher.message_reaction.register(on_reaction)
    dispatcher.my_chat_member.register(on_member)
    async with _aiogram() as (bot, at):
        url = at.provider.webhooks.url
        for wanted in (
            {"text": "olá 🌻"},
            {"kind": "callback_query", "reply_to": 1, "text": "yes"},
            {"kind": "message_reaction", "reply_to": 1},
        ):
            await at.control("/_control/inbound", chat_id=5, **wanted)
        await at.control("/_control/people", chat_id=6, state="blocked")
        await at.receiver.until(lambda: len(at.receiver.posts) == 4)
        for post in at.receiver.posts:
            await dispatcher.feed_update(bot, aiogram.types.Update.model_validate_json(post.body, context={"bot": bot}))
        assert sorted(seen) == [("button", "yes"), ("member", "kicked"), ("message", "olá 🌻"), ("reaction", "1")]
        seen.clear()
        await bot.delete_webhook(drop_pending_updates=True)
        polling = asyncio.create_task(dispatcher.start_polling(bot, handle_signals=False, close_bot_session=False))
        for number in range(3):
            await at.control("/_control/inbound", chat_id=5, text=f"t{number}")
        await eventually(lambda: len(seen) == 3)
        await eventually(lambda: at.provider.webhooks.pending == 0)  # confirmed by the next offset
        await dispatcher.stop_polling()
        await polling
        assert await bot.set_webhook(url, secret_token="s", allowed_updates=["message"])
        assert (await bot.get_webhook_info()).allowed_updates == ["message"]
    assert [text for _, text in seen] == ["t0", "t1", "t2"]


# --- python-telegram-bot ---------------------------------------------------------------------------------------------


@pytest.fixture
def as_durations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Selects the library's future type of retry_after; without it every 429 causes a warning."""
    monkeypatch.setenv("PTB_TIMEDELTA", "true")


PTB = Application[Any, Any, Any, Any, Any, Any]


@asynccontextmanager
async def _ptb(*, limiter: AIORateLimiter | None = None, **options: Any) -> AsyncIterator[tuple[PTB, Rig]]:
    async with rig("telegram", is_local=True, **options) as at:
        builder = ApplicationBuilder().token(BOT_TOKEN).base_url(f"{at.url}/bot").base_file_url(f"{at.url}/file/bot")
        application: PTB = (builder.rate_limiter(limiter) if limiter is not None else builder).build()
        async with application:
            yield application, at


async def test_python_telegram_bot_sends_every_kind() -> None:
    async with _ptb() as (application, at):
        bot = application.bot
        first = await bot.send_message(5, "\\[m\\-1\\] *olá*", parse_mode="MarkdownV2")
        photo = await bot.send_photo(5, PNG, caption="[m-2] x")
        await bot.send_document(5, LINK + ".pdf", reply_to_message_id=first.message_id)
        await bot.send_video(5, MP4)
        await bot.send_audio(5, LINK + ".mp3")
        await bot.send_voice(5, LINK + ".ogg")
        await bot.send_animation(5, LINK + ".gif")
        await bot.send_sticker(5, LINK + ".webp")
        await bot.send_location(5, -23.5, -46.6)
        await bot.send_venue(5, 1, 1, "x", "y")
        await bot.send_contact(5, "1", "Ana")
        album = await bot.send_media_group(
            5, [telegram.InputMediaPhoto(PNG, caption="[m-3] x"), telegram.InputMediaVideo(LINK + ".mp4")]
        )
        await bot.send_chat_action(5, "typing")
        await bot.set_message_reaction(5, first.message_id, "👍")
        file = await bot.get_file(photo.photo[-1].file_id)
        assert bytes(await file.download_as_bytearray()) == PNG
        sent = await _sent(at)
    assert (first.text, first.entities[0].type) == ("[m-1] olá", "bold")
    assert len({message.media_group_id for message in album}) == 1
    assert [line["kind"] for line in sent] == EVERY_KIND


@pytest.mark.usefixtures("as_durations")
async def test_python_telegram_bot_recognises_every_error() -> None:
    async with _ptb() as (application, at):
        bot = application.bot
        await _make_unreachable(at)
        for chat, text, kind in (
            (6, "x", telegram.error.Forbidden),
            (7, "x", telegram.error.BadRequest),
            (5, " ", telegram.error.BadRequest),
            (-8, "x", telegram.error.ChatMigrated),
        ):
            with pytest.raises(kind):
                await bot.send_message(chat, text)
        with pytest.raises(telegram.error.Conflict):
            await bot.get_updates()
        for knob, fault in (
            ("fault_rate", telegram.error.NetworkError),
            ("error_rate", telegram.error.NetworkError),
            ("throttle_rate", telegram.error.RetryAfter),
        ):
            await at.control("/_control/faults", **{knob: 1.0})
            with pytest.raises(fault):
                await bot.send_message(5, "x")
            await at.control("/_control/faults", **{knob: 0.0})
        await at.control("/_control/account", status=401, description="Unauthorized")
        with pytest.raises(telegram.error.InvalidToken):
            await bot.get_me()
        await at.control("/_control/account")
        await at.control("/_control/faults", hang_rate=1.0)
        with pytest.raises(telegram.error.TimedOut):
            await bot.send_message(5, "x", read_timeout=0.5)


@pytest.mark.usefixtures("as_durations")
async def test_python_telegram_bots_own_limiter_tries_again_after_a_429() -> None:
    async with _ptb(limiter=AIORateLimiter(0, 0, 0, 0, max_retries=2), limits=SLOW_CHAT) as (application, at):
        for number in range(2):
            await application.bot.send_message(5, str(number))
        verdicts = [line["verdict"] for line in await at.log() if line.get("recipient") == "5"]
    assert verdicts == ["accepted", "throttled", "accepted"]


async def test_python_telegram_bot_polls_and_reads_webhooks() -> None:
    texts: list[str | None] = []
    reactions: list[int] = []

    async def on_message(update: telegram.Update, _: Any) -> None:
        assert update.message is not None
        texts.append(update.message.text)

    async def on_reaction(update: telegram.Update, _: Any) -> None:
        assert update.message_reaction is not None
        reactions.append(update.message_reaction.message_id)

    async with _ptb() as (application, at):
        application.add_handler(MessageHandler(filters.TEXT, on_message))
        application.add_handler(MessageReactionHandler(on_reaction))
        await at.control("/_control/inbound", chat_id=5, text="olá 🌻", reply_to=1)
        await at.control("/_control/inbound", chat_id=5, kind="message_reaction", reply_to=1)
        await at.receiver.until(lambda: len(at.receiver.posts) == 2)
        for post in at.receiver.posts:
            await application.process_update(telegram.Update.de_json(json.loads(post.body), application.bot))
        assert (texts, reactions) == (["olá 🌻"], [1])
        assert application.updater is not None
        await application.start()
        await application.updater.start_polling(poll_interval=0, timeout=5)  # deletes the webhook first
        for number in range(3):
            await at.control("/_control/inbound", chat_id=5, text=f"t{number}")
        await eventually(lambda: len(texts) == 4)
        await application.updater.stop()
        await application.stop()
    assert texts[1:] == ["t0", "t1", "t2"]


# --- pyTelegramBotAPI ------------------------------------------------------------------------------------------------


@pytest.fixture
def telebot_urls() -> Iterator[None]:
    """Its base URL is a global of the module: the tests set it, and this fixture restores it."""
    urls = (asyncio_helper.API_URL, asyncio_helper.FILE_URL, telebot.apihelper.API_URL)
    yield
    asyncio_helper.API_URL, asyncio_helper.FILE_URL, telebot.apihelper.API_URL = urls


@asynccontextmanager
async def _telebot(**options: Any) -> AsyncIterator[tuple[AsyncTeleBot, Rig]]:
    async with rig("telegram", is_local=True, **options) as at:
        asyncio_helper.API_URL = telebot.apihelper.API_URL = at.url + "/bot{0}/{1}"
        asyncio_helper.FILE_URL = at.url + "/file/bot{0}/{1}"
        bot = AsyncTeleBot(BOT_TOKEN)
        try:
            yield bot, at
        finally:
            await bot.close_session()


@pytest.mark.usefixtures("telebot_urls")
async def test_pytelegrambotapi_sends_every_kind() -> None:
    async with _telebot() as (bot, at):
        assert (await bot.get_me()).username == "demo_bot"
        first = await bot.send_message(5, "[m-1] <b>olá</b>", parse_mode="HTML")
        photo = await bot.send_photo(5, PNG, caption="[m-2] x")
        await bot.send_document(5, LINK + ".pdf", reply_parameters=telebot.types.ReplyParameters(first.message_id))
        await bot.send_video(5, MP4)
        await bot.send_audio(5, LINK + ".mp3")
        await bot.send_voice(5, LINK + ".ogg")
        await bot.send_animation(5, LINK + ".gif")
        await bot.send_sticker(5, LINK + ".webp")
        await bot.send_location(5, -23.5, -46.6)
        await bot.send_venue(5, 1, 1, "x", "y")
        await bot.send_contact(5, "1", "Ana")
        album = await bot.send_media_group(
            5,
            [
                telebot.types.InputMediaPhoto(LINK + ".png", caption="[m-3] x"),
                telebot.types.InputMediaVideo(LINK + ".mp4"),
            ],
        )
        await bot.send_chat_action(5, "typing")
        await bot.set_message_reaction(5, first.message_id, [telebot.types.ReactionTypeEmoji("👍")])
        file = await bot.get_file(photo.photo[-1].file_id)
        assert await bot.download_file(file.file_path) == PNG
        sent = await _sent(at)
    assert first.text == "[m-1] olá"
    assert len({message.media_group_id for message in album}) == 1
    assert [line["kind"] for line in sent] == EVERY_KIND


@pytest.mark.usefixtures("telebot_urls")
async def test_pytelegrambotapi_recognises_errors_and_waits_by_its_own_antiflood() -> None:
    async with _telebot(limits=SLOW_CHAT) as (bot, at):
        await _make_unreachable(at)
        for chat, code in ((6, 403), (7, 400), (-8, 400)):
            with pytest.raises(asyncio_helper.ApiTelegramException) as refused:
                await bot.send_message(chat, "x")
            assert refused.value.error_code == code
        assert refused.value.result_json["parameters"] == {"migrate_to_chat_id": -1001234567890}
        calm = telebot.TeleBot(BOT_TOKEN, threaded=False)
        for number in range(2):
            await asyncio.to_thread(telebot.util.antiflood, calm.send_message, 5, str(number))
        telebot.apihelper._get_req_session().close()
        verdicts = [line["verdict"] for line in await at.log() if line.get("recipient") == "5"]
        await at.control("/_control/account", status=401, description="Unauthorized")
        with pytest.raises(asyncio_helper.ApiTelegramException, match="Unauthorized"):
            await bot.get_me()
    assert verdicts == ["accepted", "throttled", "accepted"]


@pytest.mark.usefixtures("telebot_urls")
async def test_pytelegrambotapi_polls_and_reads_webhooks() -> None:
    texts: list[str | None] = []
    async with _telebot() as (bot, at):

        async def on_message(message: telebot.types.Message) -> None:
            texts.append(message.text)

        bot.register_message_handler(on_message, content_types=["text"])
        await at.control("/_control/inbound", chat_id=5, text="olá 🌻", reply_to=1)
        await at.receiver.until(lambda: bool(at.receiver.posts))
        await bot.process_new_updates([telebot.types.Update.de_json(at.receiver.posts[0].body.decode())])
        await eventually(lambda: texts == ["olá 🌻"])
        await bot.delete_webhook()
        polling = asyncio.create_task(bot.polling(timeout=1, request_timeout=5))
        for number in range(3):
            await at.control("/_control/inbound", chat_id=5, text=f"t{number}")
        await eventually(lambda: len(texts) == 4)
        await eventually(lambda: at.provider.webhooks.pending == 0)
        polling.cancel()  # polling has no other end
        await asyncio.gather(polling, return_exceptions=True)
    assert texts[1:] == ["t0", "t1", "t2"]
