"""What the numbers of a profile mean; the Markdown and the page say it in the same words."""

CONVENTIONS = (
    "FLOPs count a multiplication and an addition as one each; a MAC is both. MACs are those of "
    "convolutions and linear layers.",
    "Forward, as in the textbook: convolution and linear layer 2 per MAC, without the bias; batch "
    "norm 5 per element; an activation 1 per element; max pooling one per position of its window; "
    "average pooling 1 per input.",
    "Backward: convolution and linear layer 2 per MAC for the gradient of the input and the same "
    "for that of the weight; batch norm 5 per element; activations and pooling 1 per element of "
    "the input. Sums that give a bias its gradient stand apart.",
    "Everything is of the whole batch. Bytes are exact; KiB, MiB and GiB are 2^10, 2^20, 2^30 B.",
    "Theory is the textbook's figure whatever the settings: every output is stored, every layer "
    "computes its input's gradient. Reasons, computed from geometry and settings, lead from there "
    "to what this machine must do; what is left is unexplained.",
    "output bytes: memory that a layer newly occupies. Kept for backward (saved_bytes): what "
    "autograd holds when the forward pass ends, each piece once, with the layer that made it.",
    "Unknown is not 0: a total that lacks a summand is marked >=.",
)
