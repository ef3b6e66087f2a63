"""Tests of whole commands, clusters, several processes, deployment."""
