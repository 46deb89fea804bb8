"""Which layers a name, a pattern, a block or a placement means."""

from keras_lora.targets.blocks import Blocks as Blocks
from keras_lora.targets.blocks import in_blocks as in_blocks
from keras_lora.targets.find import linear_targets as linear_targets
from keras_lora.targets.find import output_targets as output_targets
from keras_lora.targets.find import trained_paths as trained_paths
from keras_lora.targets.names import ALL_LINEAR as ALL_LINEAR
from keras_lora.targets.names import Targets as Targets
from keras_lora.targets.names import select as select
from keras_lora.targets.placements import PLACEMENTS as PLACEMENTS
