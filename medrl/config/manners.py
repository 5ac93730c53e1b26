"""How a medical service behaves, whatever the model says: docs/serving.md."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from medrl.config.base import StrictModel

INTENDED_USE = (
    "For research and evaluation. Not a medical device: not for diagnosis, for treatment or in emergencies. "
    "Answers can be wrong; ask a clinician."
)


class SystemPromptConfig(StrictModel):
    """What the system says at the start of every chat."""

    policy: Literal["none", "default", "enforced"] = Field(
        default="none",
        description="none: the client's own; default: `text` when the client gives none; enforced: `text` in its place",
    )
    text: str | None = Field(default=None, min_length=1, description="the system prompt")

    @model_validator(mode="after")
    def _worded(self):
        if (self.policy == "none") == bool(self.text):
            raise ValueError("text is needed with policy default or enforced, and with no other")
        return self


class EscalationConfig(StrictModel):
    """What happens when a user writes of an emergency or of self-harm."""

    action: Literal["header", "answer"] = Field(
        default="header", description="header: x-medrl-escalation names the rule; answer: a fixed text answers, too"
    )
    rules: str | None = Field(default=None, description="file of rules; null: those that come with medrl")
    turns: int = Field(default=2, ge=1, description="how many of the user's last turns are read")


class MannersConfig(StrictModel):
    """Medical manners: a statement, a system prompt, and a way out in emergencies."""

    intended_use: str = Field(
        default=INTENDED_USE, pattern=r"^[!-~][ -~]{0,499}$", description="statement in the header x-medrl-intended-use"
    )
    system_prompt: SystemPromptConfig = SystemPromptConfig()
    escalation: EscalationConfig | None = Field(default=EscalationConfig(), description="null: none")
