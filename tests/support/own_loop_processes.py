"""What each of two processes does in the test of `hptransfer.mup` under FSDP2.

`torchrun --nproc-per-node 2 -m tests.support.own_loop_processes` prints each process's losses.
"""

from __future__ import annotations

import os

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import hptransfer
from tests.support.own_models import LanguageModel, language_loss, stepping


def main() -> None:
    """Train the language model, cut over the processes, on the same batches in each."""
    torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    model = hptransfer.mup.build(LanguageModel, width=64, base_width=32)
    for block in model.get_submodule("blocks").children():
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(hptransfer.mup.param_groups(model, lr=2**-6))
    hptransfer.mup.require_ratios(optimizer)
    step = stepping(language_loss)
    losses = [float(step(model, optimizer, number)) for number in range(3)]
    for rank in range(2):  # one line at a time
        torch.distributed.barrier()
        if rank == int(os.environ["RANK"]):
            print(*losses, flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
