"""Packs: trials of equal tensor shapes, trained together along a leading trial axis."""
