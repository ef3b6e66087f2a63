"""Train a small Llama with the Trainer of the transformers library.

Alone: python hf_trainer.py --width 32 --lr 0.01. As a sweep: hptransfer run hf_trainer.yaml. The
Trainer would build an optimizer with one rate for all parameters, so it is given one with µP's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from typing import Any

import torch
from language_model import CHARACTERS, HELD_OUT, LENGTH, text
from torch import nn
from transformers import (  # pyright: ignore[reportMissingImports]
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import hptransfer

BASE_WIDTH, HEAD_DIM = 32, 16


def make_model(width: int) -> nn.Module:
    """Build a Llama of a width: the number of heads grows, their size stays."""
    config = LlamaConfig(
        vocab_size=CHARACTERS,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=2,
        num_attention_heads=width // HEAD_DIM,
        num_key_value_heads=width // HEAD_DIM,
        head_dim=HEAD_DIM,
        max_position_embeddings=LENGTH,
    )
    model = LlamaForCausalLM(config)
    nn.init.zeros_(model.lm_head.weight)
    return model


class Reporter(TrainerCallback):
    """Reports what the Trainer logs."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            hptransfer.report(state.global_step, loss=float(logs["loss"]))


def examples(part: torch.Tensor) -> Any:
    """Cut a text into examples; the Trainer shifts the labels itself."""
    return [{"input_ids": x, "labels": x} for x in part.unfold(0, LENGTH, LENGTH)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()

    torch.manual_seed(given.seed)
    model = hptransfer.mup.build(make_model, width=given.width, base_width=BASE_WIDTH)
    optimizer = torch.optim.AdamW(hptransfer.mup.param_groups(model, lr=given.lr))
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / given.steps)
    hptransfer.mup.require_ratios(optimizer)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=given.steps,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=128,
            logging_steps=20,
            seed=given.seed,
            max_grad_norm=0.0,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=examples(text()[:-HELD_OUT]),
            eval_dataset=examples(text()[-HELD_OUT:]),
            optimizers=(optimizer, decay),
            callbacks=[Reporter()],
        )
        trainer.train()
        print(json.dumps({"loss": trainer.evaluate()["eval_loss"]}))


if __name__ == "__main__":
    main()
