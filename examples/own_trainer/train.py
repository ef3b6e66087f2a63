"""Train the language model of language_model.py: python train.py --width 64 --lr 0.03.

The script runs alone, and as the command of a sweep: hptransfer run command.yaml.
"""

from __future__ import annotations

import argparse
import json

from language_model import train


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()

    def report(step: int, loss: float) -> None:
        print(json.dumps({"step": step, "loss": loss}))  # a line with a step: a point of the curve

    loss = train(**vars(given), report=report)
    print(json.dumps({"loss": loss}))  # a line without: the answer


if __name__ == "__main__":
    main()
