import torch


# The suite runs in as many processes as there are cores; tiny models gain nothing from more threads.
torch.set_num_threads(1)
