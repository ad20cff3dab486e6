"""Processes for tests, forked from a server that has imported PyTorch once: that takes seconds."""

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["lbp.lab.store"])
