"""Packs on Ray Tune: sessions, clusters, and workers that are lost."""
