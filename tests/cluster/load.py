"""A steady load that notices every answer which is not what it was before."""

from __future__ import annotations

from segue.client import SegueClient

ANSWER_TOKENS = 40
# For a router: a first token that is late on a busy machine has nobody refused.
PATIENT = ("--max-queue-s", "300", "--slo-class", "chat=ttft_s:300,tokens_per_s:1")


class Load:
    """Asks the same questions again and again, and keeps every answer that is not the first one's."""

    def __init__(self, client: SegueClient) -> None:
        self._client = client
        self._first: dict[str, str] = {}
        self.answered = 0
        self.changed: list[tuple[str, str]] = []

    async def go_on(self, asker: int) -> None:
        prompt = f"Once upon a time there were {asker} bears."
        while True:
            text = (await self._client.generate(prompt, max_tokens=ANSWER_TOKENS, ignore_eos=True)).text
            self.answered += 1
            if self._first.setdefault(prompt, text) != text:
                self.changed.append((self._first[prompt], text))
