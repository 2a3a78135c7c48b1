"""Sets one thread, because tests run in parallel and their tensors are too small for threads."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
