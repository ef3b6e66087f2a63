"""Training of trials: packs of small models, and one target on one device or several.

`packs` and `target` have each a loop, an optimizer and a checkpoint format, since a pack stacks
many trials in one tensor and a target is an ordinary `nn.Module` that torch may divide among
devices. Everything that decides a number is shared and lies in this folder.
`sampling` draws samples of a trained model and measures their quality.
"""
