"""Which layers a name, a pattern, a block or a placement means."""

from keras_lora.targets.blocks import (
    Blocks,
    chain_of_blocks,
    in_blocks,
    wrong_chain,
)
from keras_lora.targets.find import (
    linear_targets,
    mostly_elsewhere,
    output_targets,
    trained_paths,
)
from keras_lora.targets.names import ALL_LINEAR, Targets, select
from keras_lora.targets.placements import PLACEMENTS
