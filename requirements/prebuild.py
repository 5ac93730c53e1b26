"""Compile the kernel that DeepSpeed otherwise compiles when a learner first starts on a CPU."""

from deepspeed.comm.torch import build_shm_op

if build_shm_op() is None:
    print("DeepSpeed offers no shared-memory kernel here")
