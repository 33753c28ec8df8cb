import os
import tempfile

import torch


# What datasets keeps is not to be left in the home of who runs the tests, nor found there.
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="titans_mal_datasets_")
# The suite runs in as many processes as there are cores; tiny models gain nothing from more threads.
torch.set_num_threads(1)
