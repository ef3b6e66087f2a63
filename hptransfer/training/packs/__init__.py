"""Packs: small trials of equal shapes, trained together along a leading trial axis."""
