"""From a question to token ids that end right before the answer's only free token, and which two tokens can follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dialogue.control_tokens import ControlTokens
from dialogue.tactics import Tactic
from reward_servers.failures import UnfitItemError
from reward_servers.lora_tagger.prompts import ANSWER_AFTER, ANSWER_BEFORE, VERDICTS, TacticPrompt

_PROBE = ("That sounds hard. Did you sleep?", "Did you sleep?")


class TokenizerError(ValueError):
    """A tokenizer with which the verdict cannot be read from one token. The message says what it does instead."""


class PromptTooLongError(UnfitItemError):
    """A reply that does not fit the tagger's context together with the question. It is refused, never cut."""


class PromptEncoder:
    """Token ids of questions for one tokenizer.

    Args:
        tokenizer: of the base model, with a chat template that takes a system message.
        prompts: what each tactic is asked with.
        max_tokens: the longest prompt that is accepted, the answer's first tokens included.

    Raises:
        TokenizerError: it has no such template, or "0" and "1" are not one token each where the answer stands.
    """

    def __init__(self, tokenizer: Any, prompts: Mapping[Tactic, TacticPrompt], max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._control = ControlTokens(tokenizer)
        self._prompts = prompts
        self.max_tokens = max_tokens
        self.answer_ids = self._answer_ids(next(iter(prompts)))

    def encode(self, tactic: Tactic, context: str, sentence: str) -> list[int]:
        """(T,) token ids: the chat, the opening of the model's turn, and the answer as far as it is always the same.

        Raises:
            PromptTooLongError: T would exceed `max_tokens`.
        """
        ids = self.tokenize(self._opened(tactic, context, sentence))
        if len(ids) > self.max_tokens:
            raise PromptTooLongError(
                f"asking for {tactic} in a reply of {len(context)} characters takes {len(ids)} tokens, "
                f"and {self.max_tokens} are allowed; the reply begins {context[:40]!r}"
            )
        return ids

    def question(self, tactic: Tactic, context: str, sentence: str) -> list[int]:
        """As `encode`, without the answer's opening: what a model is given that is to write the whole answer."""
        return self.tokenize(self._opened(tactic, context, sentence, opening=""))

    def _opened(self, tactic: Tactic, context: str, sentence: str, opening: str = ANSWER_BEFORE) -> str:
        messages = self._prompts[tactic].messages(self._control.plain(context), self._control.plain(sentence))
        try:
            chat = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False, enable_thinking=False
            )
        except Exception as error:  # templates raise whatever they like
            raise TokenizerError(f"the base's chat template cannot render the question ({error})") from error
        return f"{chat}{opening}"

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text as it stands, nothing added."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])  # the template wrote the special ones

    def _answer_ids(self, tactic: Tactic) -> tuple[int, int]:
        """The ids of "0" and "1" where the answer stands.

        What stands before `<score>` cannot matter for them: the template's own tokens lie between.
        """
        opened = self._opened(tactic, *_PROBE)
        before = self.tokenize(opened)
        rest = [self.tokenize(f"{opened}{verdict}{ANSWER_AFTER}") for verdict in VERDICTS]
        size = len(before)
        one_token = all(ids[:size] == before and len(ids) > size for ids in rest)
        if not one_token or rest[0][size] == rest[1][size] or rest[0][size + 1 :] != rest[1][size + 1 :]:
            raise TokenizerError(
                f"the base's tokenizer does not write {ANSWER_BEFORE}0{ANSWER_AFTER} and {ANSWER_BEFORE}1"
                f"{ANSWER_AFTER} as token sequences that differ in one token; use another base"
            )
        return rest[0][size], rest[1][size]
