"""Which commands run as jobs."""

RESUMABLE = ("pretrain", "sft", "reward", "dpo", "ppo")  # they have --resume
STAGES = (*RESUMABLE, "evaluate", "pipeline")
