from __future__ import annotations

import torch

torch.set_num_threads(1)  # tests run in parallel, and these tensors are too small for threads
