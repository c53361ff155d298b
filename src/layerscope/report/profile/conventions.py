"""What the numbers of a profile mean; the Markdown and the page say it in the same words."""

CONVENTIONS = (
    "FLOPs count a multiplication and an addition as one each; a MAC is both. MACs are those of "
    "convolutions, linear layers and products of two activations (matmul, attention).",
    "Forward, as in the textbook: products 2 per MAC, without the bias; norms 5 per element; an "
    "activation 1 per element; max pooling one per position of its window; average pooling 1 per "
    "input. Other pointwise operations 1 per output element; moving data costs nothing.",
    "Backward: products 2 per MAC for the gradient of each factor; norms 5 per element; "
    "activations and pooling 1 per element of the input. Sums that give a bias its gradient stand "
    "apart.",
    "Everything is of the whole batch. Bytes are exact; KiB, MiB and GiB are 2^10, 2^20, 2^30 B.",
    "Theory is the textbook's figure whatever the settings: every output is stored, every layer "
    "computes its input's gradient. Reasons, read off the operations of a dry run, lead from there "
    "to what this step must do: theory + reasons = predicted. What is measured beyond that is "
    "unexplained.",
    "An instrument has formulas for some operations only. What it has none for is not counted: it "
    "stands apart, and is no comparison. Neither is 0 against 0.",
    "output bytes: memory that a layer newly occupies. saved_bytes: what autograd holds for the "
    "backward pass when the forward pass ends, each piece once, with the layer that made it.",
    "Live peak: the most bytes in use at one time in forward, loss and backward, above parameters, "
    "buffers and input. What operations take and give back inside (scratch) is measured apart.",
    "Unknown is not 0: a total that lacks a summand is marked >=.",
)
