import torch

import models_mm  # noqa: F401  (before any test imports mmdet, which needs it)

torch.set_num_threads(1)  # maps are small here, and parallel test workers would fight over cores
