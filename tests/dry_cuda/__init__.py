"""A dry run of the GPU path: torch's real CUDA code over a runtime whose kernels do nothing.

`runtime.cpp` stands in for libcudart and has one H100 (compute capability 9.0), `driver.cpp` for
the driver that Triton asks. Everything but the kernels is real: dispatcher, autograd's threads and
streams, the caching allocator, graphs' memory, the rules of capture, the choice of an attention
kernel, Dynamo, Inductor and Triton. So it shows what breaks a capture, waits, allocates, leaks, is
compiled twice or is refused.

It cannot show numbers, since kernels write nothing, nor speed, nor cuDNN's own code (torch's
convolutions replace it here). A number that the program reads is what copies left in memory; a
single byte reads 1, so that all trials live.

`cases.py` holds the table of cases, `run.py` runs them in processes of their own, and
`python -m tests.dry_cuda.run` writes `results/benchmarks/dry_cuda.json`.
"""
