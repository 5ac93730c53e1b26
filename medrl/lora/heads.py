"""The scalar head of a reward model or critic trains, whatever PEFT made of the task type."""

from __future__ import annotations

from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from medrl.errors import AdapterError
from medrl.lora.streaming import bare
from medrl.lora.wrap import ADAPTER
from medrl.models.scalar_head import HEAD_NAMES


def check_head_trains(model: nn.Module) -> None:
    """AdapterError unless the whole head of a scalar model, wrapped or not, trains (and so is saved with an adapter).

    A new head that stays frozen scores at random for ever: PEFT saves one along only for some task types.
    """
    heads = {name: child for name, child in bare(model).named_children() if name in HEAD_NAMES}
    for name, head in heads.items():
        trained = head.modules_to_save[ADAPTER] if isinstance(head, ModulesToSaveWrapper) else head
        if all(parameter.requires_grad for parameter in trained.parameters()):
            return
        raise AdapterError(
            f"the head {name} of {type(bare(model)).__name__} would stay as it was initialised",
            limit="a head that trains and is saved with the adapter",
            got="a frozen head",
            remedy='wrap the model with task="scalar"',
        )
    raise AdapterError(f"{type(bare(model)).__name__} has no scalar head", limit=", ".join(HEAD_NAMES),
                       remedy="use a model_type that has a sequence-classification class")
